//! One document of a file: an object, a list of objects, or something that is none of ours.
//!
//! Read in one pass, typed where the kind is known by then, so that a fault has its line. `kubectl`
//! writes the fields in alphabetical order, hence `items` and `endpoints` before `kind`:
//!
//! - `apiVersion: discovery.k8s.io/v1` is enough to know the endpoints' type;
//! - items are read on suspicion, each by its own kind, and thrown away if it was no list;
//! - other fields ahead of their kind are kept as a tree until it is known. Their faults have the
//!   line of the document's end.
//!
//! Fields nobody needs are skipped without being looked at, whatever they are.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{
    self, Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, Visitor,
};

use super::object::{self, Kind, Object, ObjectKey};

const CORE: &str = "v1";
const DISCOVERY: &str = "discovery.k8s.io/v1";

/// What is in a document.
#[derive(Debug, Default)]
pub(crate) struct Document {
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
struct Fields {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Slot<ObjectMeta>,
    spec: Slot<ServiceSpec>,
    address_type: Slot<String>,
    endpoints: Slot<Vec<Endpoint>>,
    ports: Slot<Vec<EndpointPort>>,
    items: Option<Vec<Item>>,
}

/// A field that was missing, was read as what it must be, or came before that was known.
#[derive(Debug, Default)]
enum Slot<T> {
    #[default]
    Absent,
    Read(Option<T>),
    Tree(serde_json::Value),
}

/// An entry of a list.
#[derive(Debug)]
enum Item {
    Read(Document),
    /// It does not say its kind; the list's may.
    Kindless(Box<Fields>),
    NotAnObject,
}

/// Why a well-formed document is no object.
#[derive(Debug)]
enum Complaint {
    Missing { field: &'static str },
    Unnamed { kind: Kind },
    NoAddressType { key: ObjectKey },
    ItemNotAnObject { index: usize },
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
            Kind::Service => matches!(field, "metadata" | "spec"),
            Kind::EndpointSlice => {
                matches!(field, "metadata" | "addressType" | "endpoints" | "ports")
            }
            Kind::Node => field == "metadata",
        })
    }

    fn read_field<'de, A: MapAccess<'de>>(
        &mut self,
        field: &str,
        map: &mut A,
    ) -> Result<(), A::Error> {
        let belongs = self.belongs(field);
        match field {
            "apiVersion" => self.api_version = map.next_value()?,
            "kind" => self.kind = map.next_value()?,
            "metadata" => self.metadata.read(belongs, map)?,
            "spec" => self.spec.read(belongs, map)?,
            "addressType" => self.address_type.read(belongs, map)?,
            "endpoints" => self.endpoints.read(belongs, map)?,
            "ports" => self.ports.read(belongs, map)?,
            "items" if matches!(self.meaning(), None | Some(Meaning::List(_))) => {
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
    fn finish(mut self, default: Option<(&str, &str)>) -> Result<Document, Complaint> {
        if let Some((api_version, kind)) = default {
            self.api_version.get_or_insert_with(|| api_version.to_owned());
            self.kind.get_or_insert_with(|| kind.to_owned());
        }
        let api_version =
            self.api_version.as_deref().ok_or(Complaint::Missing { field: "apiVersion" })?;
        let kind = self.kind.as_deref().ok_or(Complaint::Missing { field: "kind" })?;
        match meaning(api_version, kind) {
            Meaning::Object(kind) => {
                let object = self.object(kind)?;
                Ok(Document { objects: vec![object], foreign: BTreeSet::new() })
            }
            Meaning::List(default) => list(self.items.unwrap_or_default(), default),
            Meaning::Foreign => {
                let foreign = [format!("{api_version} {kind}")].into();
                Ok(Document { objects: Vec::new(), foreign })
            }
        }
    }

    fn object(self, kind: Kind) -> Result<Object, Complaint> {
        let metadata = self.metadata.take("metadata")?.unwrap_or_default();
        let key = object::key(kind, &metadata).ok_or(Complaint::Unnamed { kind })?;
        Ok(match kind {
            Kind::Service => Object::service(key, metadata, self.spec.take("spec")?),
            Kind::EndpointSlice => {
                let Some(address_type) = self.address_type.take("addressType")? else {
                    return Err(Complaint::NoAddressType { key });
                };
                let endpoints = self.endpoints.take("endpoints")?.unwrap_or_default();
                let ports = self.ports.take("ports")?.unwrap_or_default();
                Object::slice(key, metadata, address_type, endpoints, ports)
            }
            Kind::Node => Object::node(key, metadata),
        })
    }
}

fn list(items: Vec<Item>, default: Option<(&str, &str)>) -> Result<Document, Complaint> {
    let mut whole = Document::default();
    for (index, item) in items.into_iter().enumerate() {
        let document = match item {
            Item::Read(document) => document,
            Item::Kindless(fields) => fields.finish(default)?,
            Item::NotAnObject => return Err(Complaint::ItemNotAnObject { index }),
        };
        whole.objects.extend(document.objects);
        whole.foreign.extend(document.foreign);
    }
    Ok(whole)
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

    fn take(self, field: &'static str) -> Result<Option<T>, Complaint> {
        match self {
            Self::Absent => Ok(None),
            Self::Read(value) => Ok(value),
            Self::Tree(tree) => {
                serde_json::from_value(tree).map_err(|error| Complaint::Field { field, error })
            }
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;

        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a Kubernetes object")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Document, E> {
                Ok(Document::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut fields = Fields::default();
                while let Some(field) = map.next_key::<String>()? {
                    fields.read_field(&field, &mut map)?;
                }
                fields.finish(None).map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(DocumentVisitor)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;

        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item of a list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
                let mut fields = Fields::default();
                while let Some(field) = map.next_key::<String>()? {
                    fields.read_field(&field, &mut map)?;
                }
                if fields.meaning().is_none() {
                    return Ok(Item::Kindless(Box::new(fields)));
                }
                fields.finish(None).map(Item::Read).map_err(de::Error::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Item::NotAnObject)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Item, E> {
                Ok(Item::NotAnObject)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Item, E> {
                Ok(Item::NotAnObject)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Item, E> {
                Ok(Item::NotAnObject)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Item, E> {
                Ok(Item::NotAnObject)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Item, E> {
                Ok(Item::NotAnObject)
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Item, E> {
                Ok(Item::NotAnObject)
            }
        }

        deserializer.deserialize_any(ItemVisitor)
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { field } => write!(f, "{field} is missing"),
            Self::Unnamed { kind } => write!(f, "{kind} without metadata.name"),
            Self::NoAddressType { key } => write!(f, "{key} without addressType"),
            Self::ItemNotAnObject { index } => write!(f, "items[{index}] is no object"),
            Self::Field { field, error } => write!(f, "{field}: {error}"),
        }
    }
}
