//! One document of a file: an object, a list of objects, or something that is none of ours.
//!
//! Read in one pass, typed where the kind is known by then, so that a fault has its line. `kubectl`
//! writes the fields in alphabetical order, hence `items` and `endpoints` before `kind`:
//!
//! - `apiVersion: discovery.k8s.io/v1` is enough to know the endpoints' type;
//! - items are read on suspicion, each by its own kind, and thrown away if it was no list;
//! - other fields ahead of their kind are kept as a tree until it is known. Their faults have the
//!   line where the object begins.
//!
//! Fields nobody needs are skipped without being looked at, whatever they are.

use std::collections::BTreeSet;
use std::error;
use std::fmt;

use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus, ServiceSpec, ServiceStatus};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_saphyr::Spanned;

use super::object::{self, Kind, Object, ObjectKey};

const CORE: &str = "v1";
const DISCOVERY: &str = "discovery.k8s.io/v1";

/// What documents say.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// The objects of use, in the order written.
    pub(crate) objects: Vec<Object>,
    /// `apiVersion kind` of those that are of no use.
    pub(crate) foreign: BTreeSet<String>,
}

/// What an apiVersion and a kind together mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Object(Kind),
    /// A list; for a typed list with the apiVersion and kind of items that do not say it.
    List(Option<(&'static str, &'static str)>),
    Foreign,
}

fn meaning(api_version: &str, kind: &str) -> Meaning {
    match (api_version, kind) {
        (CORE, "Service") => Meaning::Object(Kind::Service),
        (DISCOVERY, "EndpointSlice") => Meaning::Object(Kind::EndpointSlice),
        (CORE, "Node") => Meaning::Object(Kind::Node),
        (CORE, "List") => Meaning::List(None),
        (CORE, "ServiceList") => Meaning::List(Some((CORE, "Service"))),
        (DISCOVERY, "EndpointSliceList") => Meaning::List(Some((DISCOVERY, "EndpointSlice"))),
        (CORE, "NodeList") => Meaning::List(Some((CORE, "Node"))),
        _ => Meaning::Foreign,
    }
}

/// The fields of a document that may be of use.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Slot<ObjectMeta>,
    /// Of a Service, or a tree until the kind is known.
    spec: Slot<ServiceSpec>,
    status: Slot<ServiceStatus>,
    node_spec: Slot<NodeSpec>,
    node_status: Slot<NodeStatus>,
    address_type: Slot<String>,
    endpoints: Slot<Vec<Endpoint>>,
    ports: Slot<Vec<EndpointPort>>,
    items: Option<Vec<Spanned<Entry>>>,
    /// These are the fields of an entry of a list.
    nested: bool,
}

/// A field that was missing, was read as what it must be, or came before that was known.
#[derive(Debug, Default)]
enum Slot<T> {
    #[default]
    Absent,
    Read(Option<T>),
    Tree(serde_json::Value),
}

/// A document of a file, or an entry of a list.
///
/// A list in a list is refused: nobody writes it, and each level takes much stack.
#[derive(Debug)]
pub(crate) enum Item {
    /// Nothing: an empty document.
    Empty,
    /// It says its kind.
    Read(Content),
    /// It does not say its kind; the list's may.
    Kindless(Box<Fields>),
    /// It is no mapping, or its content is not what its kind must have.
    Faulty(Complaint),
}

/// An entry of a list.
#[derive(Debug)]
pub(crate) struct Entry(Item);

/// Why something well-formed is no object.
#[derive(Debug)]
pub(crate) struct Complaint {
    /// Where the object begins, if that is known.
    pub(crate) line: Option<u64>,
    /// The entry of the list it is in.
    item: Option<usize>,
    what: What,
}

#[derive(Debug)]
enum What {
    NotAnObject,
    NestedList,
    Missing { field: &'static str },
    Unnamed { kind: Kind },
    NoAddressType { key: ObjectKey },
    Field { field: &'static str, error: serde_json::Error },
}

impl Fields {
    fn meaning(&self) -> Option<Meaning> {
        Some(meaning(self.api_version.as_deref()?, self.kind.as_deref()?))
    }

    /// Whether a field belongs to the object. None: not known yet.
    fn belongs(&self, field: &str) -> Option<bool> {
        let kind = match self.meaning() {
            Some(Meaning::Object(kind)) => kind,
            Some(Meaning::List(_) | Meaning::Foreign) => return Some(false),
            // Nothing but slices and lists of them lives there.
            None if self.kind.is_none() && self.api_version.as_deref() == Some(DISCOVERY) => {
                Kind::EndpointSlice
            }
            None => return None,
        };
        Some(match kind {
            Kind::Service | Kind::Node => matches!(field, "metadata" | "spec" | "status"),
            Kind::EndpointSlice => {
                matches!(field, "metadata" | "addressType" | "endpoints" | "ports")
            }
        })
    }

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        field: &str,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let belongs = self.belongs(field);
        let is_node = self.meaning() == Some(Meaning::Object(Kind::Node));
        match field {
            "apiVersion" => self.api_version = map.next_value()?,
            "kind" => self.kind = map.next_value()?,
            "metadata" => self.metadata.read(belongs, map)?,
            "spec" if is_node => self.node_spec.read(belongs, map)?,
            "spec" => self.spec.read(belongs, map)?,
            "status" if is_node => self.node_status.read(belongs, map)?,
            "status" => self.status.read(belongs, map)?,
            "addressType" => self.address_type.read(belongs, map)?,
            "endpoints" => self.endpoints.read(belongs, map)?,
            "ports" => self.ports.read(belongs, map)?,
            "items" if !self.nested && matches!(self.meaning(), None | Some(Meaning::List(_))) => {
                self.items = map.next_value()?;
            }
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    /// Makes objects of the fields, `default` being the apiVersion and kind of a list's items
    /// that do not say theirs.
    fn finish(mut self, default: Option<(&str, &str)>) -> Result<Content, Complaint> {
        if let Some((api_version, kind)) = default {
            self.api_version.get_or_insert_with(|| api_version.to_owned());
            self.kind.get_or_insert_with(|| kind.to_owned());
        }
        let api_version =
            self.api_version.as_deref().ok_or(What::Missing { field: "apiVersion" })?;
        let kind = self.kind.as_deref().ok_or(What::Missing { field: "kind" })?;
        let mut content = Content::default();
        match meaning(api_version, kind) {
            Meaning::Object(kind) => content.objects.push(self.object(kind)?),
            Meaning::List(_) if self.nested => return Err(What::NestedList.into()),
            Meaning::List(default) => {
                for (index, item) in self.items.unwrap_or_default().into_iter().enumerate() {
                    let item = Spanned::new(item.value.0, item.referenced, item.defined);
                    content.add(item, default).map_err(|complaint| Complaint {
                        item: complaint.item.or(Some(index)),
                        ..complaint
                    })?;
                }
            }
            Meaning::Foreign => {
                content.foreign.insert(format!("{api_version} {kind}"));
            }
        }
        Ok(content)
    }

    fn object(self, kind: Kind) -> Result<Object, What> {
        let metadata = self.metadata.take("metadata")?.unwrap_or_default();
        let key = object::key(kind, &metadata).ok_or(What::Unnamed { kind })?;
        Ok(match kind {
            Kind::Service => {
                let (spec, status) = (self.spec.take("spec")?, self.status.take("status")?);
                Object::service(key, metadata, spec, status)
            }
            Kind::EndpointSlice => {
                let Some(address_type) = self.address_type.take("addressType")? else {
                    return Err(What::NoAddressType { key });
                };
                let endpoints = self.endpoints.take("endpoints")?.unwrap_or_default();
                let ports = self.ports.take("ports")?.unwrap_or_default();
                Object::slice(key, metadata, address_type, endpoints, ports)
            }
            Kind::Node => {
                let spec = self.node_spec.or_tree_of(self.spec).take("spec")?;
                let status = self.node_status.or_tree_of(self.status).take("status")?;
                Object::node(key, metadata, spec, status)
            }
        })
    }
}

impl Content {
    /// Adds what a document or an entry of a list says. `default` is for those that do not say
    /// their kind.
    pub(crate) fn add(
        &mut self,
        item: Spanned<Item>,
        default: Option<(&str, &str)>,
    ) -> Result<(), Complaint> {
        let content = match item.value {
            Item::Empty => return Ok(()),
            Item::Read(content) => Ok(content),
            Item::Kindless(fields) => fields.finish(default),
            Item::Faulty(complaint) => Err(complaint),
        };
        // The innermost line is the best.
        let line = Some(item.referenced.line()).filter(|line| *line > 0);
        let content = content
            .map_err(|complaint| Complaint { line: complaint.line.or(line), ..complaint })?;
        self.objects.extend(content.objects);
        self.foreign.extend(content.foreign);
        Ok(())
    }
}

impl<T: DeserializeOwned> Slot<T> {
    fn read<'de, A: MapAccess<'de>>(
        &mut self,
        belongs: Option<bool>,
        map: &mut A,
    ) -> Result<(), A::Error> {
        match belongs {
            Some(true) => *self = Self::Read(map.next_value()?),
            Some(false) => {
                map.next_value::<IgnoredAny>()?;
            }
            None => *self = Self::Tree(map.next_value()?),
        }
        Ok(())
    }

    /// What came before the kind is kept in another slot.
    fn or_tree_of<U>(self, other: Slot<U>) -> Self {
        match other {
            Slot::Tree(tree) => Self::Tree(tree),
            Slot::Absent | Slot::Read(_) => self,
        }
    }

    fn take(self, field: &'static str) -> Result<Option<T>, What> {
        match self {
            Self::Absent => Ok(None),
            Self::Read(value) => Ok(value),
            Self::Tree(tree) => {
                serde_json::from_value(tree).map_err(|error| What::Field { field, error })
            }
        }
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor { nested: false })
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor { nested: true }).map(Self)
    }
}

/// Takes anything, since what is wrong gets its line from outside.
struct ItemVisitor {
    nested: bool,
}

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        let mut fields = Fields { nested: self.nested, ..Fields::default() };
        while let Some(field) = map.next_key::<String>()? {
            fields.read_field(&field, &mut map)?;
        }
        if fields.meaning().is_none() {
            return Ok(Item::Kindless(Box::new(fields)));
        }
        Ok(fields.finish(None).map_or_else(Item::Faulty, Item::Read))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(not_an_object())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Item, E> {
        Ok(Item::Empty)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Item, E> {
        Ok(not_an_object())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Item, E> {
        Ok(not_an_object())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Item, E> {
        Ok(not_an_object())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Item, E> {
        Ok(not_an_object())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Item, E> {
        Ok(not_an_object())
    }
}

fn not_an_object() -> Item {
    Item::Faulty(What::NotAnObject.into())
}

impl From<What> for Complaint {
    fn from(what: What) -> Self {
        Self { line: None, item: None, what }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(item) = self.item {
            write!(f, "items[{item}]: ")?;
        }
        match &self.what {
            What::NotAnObject => f.write_str("it is not a Kubernetes object"),
            What::NestedList => f.write_str("a list stands in a list"),
            What::Missing { field } => write!(f, "{field} is missing"),
            What::Unnamed { kind } => write!(f, "{kind} without metadata.name"),
            What::NoAddressType { key } => write!(f, "{key} without addressType"),
            What::Field { field, error } => write!(f, "{field}: {error}"),
        }
    }
}

impl error::Error for Complaint {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.what {
            What::Field { error, .. } => Some(error),
            _ => None,
        }
    }
}
