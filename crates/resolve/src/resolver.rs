//! Keeps the facts of all objects and makes a new table when they say something new.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rustc_hash::{FxHashMap, FxHashSet};
use streamvs_table::{
    NodeFacts, OrdMap, ServiceName, ServicePort, ServicePortName, Snapshot, Unserved,
};

use crate::build;
use crate::changes::Changes;
use crate::names::Names;
use crate::node;
use crate::notice::{Notice, ObjectName};
use crate::service::{self, ServiceFacts};
use crate::slices::{self, SliceFacts, SliceName};

/// The node label that says in which zone it stands.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What a resolver must know of its place.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name, as in `spec.nodeName` of its pods. Endpoints with it are local.
    pub node_name: Arc<str>,
    /// None: serve Services without the label `service.kubernetes.io/service-proxy-name`, as
    /// kube-proxy does. A name: serve only Services where the label has it.
    pub service_proxy_name: Option<Arc<str>>,
    /// externalIPs outside of these ranges are not served. Empty: none is, as whoever may write
    /// Services could take any address for himself (CVE-2020-8554).
    pub allow_external_ips: Vec<IpNet>,
}

/// A change of one object, as a watch reports it. Each carries the whole object.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Service is new or changed.
    Service(Box<Service>),
    /// A Service is gone.
    DeleteService(ServiceName),
    /// An EndpointSlice is new or changed.
    Slice(Box<EndpointSlice>),
    /// An EndpointSlice is gone.
    DeleteSlice {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// A Node is new or changed. Nodes other than this one may be given and do nothing.
    Node(Box<Node>),
    /// The Node of this name is gone.
    DeleteNode(Arc<str>),
}

/// Turns [`Change`]s into [`Snapshot`]s.
///
/// It holds a compact form of each Service and slice that counts, and no Kubernetes object. Its
/// size is bounded by what was applied and not deleted: about 80 bytes an endpoint here and as
/// much in the table.
///
/// Invariants: `ports` of an entry is what its facts and slices gave when it was last resolved,
/// and is stale only where the Service is in `touched`; `slice_owners` has exactly the slices the
/// entries have.
pub struct Resolver {
    config: Config,
    /// This node's zone, where it has one.
    zone: Option<Arc<str>>,
    node: Arc<NodeFacts>,
    services: BTreeMap<ServiceName, Entry>,
    slice_owners: FxHashMap<SliceName, ServiceName>,
    touched: FxHashSet<ServiceName>,
    /// Services that are known and not served.
    unserved: OrdMap<ServiceName, Unserved>,
    /// Of what came in since the last table.
    changes: Changes,
    names: Names,
    /// What was said of each object and still holds. Objects without notices have no entry.
    told: FxHashMap<ObjectName, Vec<Notice>>,
    /// The conflicts of the last table: who claimed what in vain, and who has it.
    told_conflicts: FxHashMap<(Option<IpAddr>, u16, ServicePortName), ServicePortName>,
    /// The table made last, or the one that is followed; generation 0 before the first.
    last: Snapshot,
    /// A table was made.
    made: bool,
}

/// All that is known under one Service name. Slices may be there before their Service, or
/// without.
#[derive(Default)]
struct Entry {
    facts: Option<ServiceFacts>,
    slices: BTreeMap<Arc<str>, SliceFacts>,
    ports: Vec<Arc<ServicePort>>,
}

impl Resolver {
    /// A resolver that knows nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            zone: None,
            node: Arc::default(),
            services: BTreeMap::new(),
            slice_owners: FxHashMap::default(),
            touched: FxHashSet::default(),
            unserved: OrdMap::new(),
            changes: Changes::default(),
            names: Names::new(),
            told: FxHashMap::default(),
            told_conflicts: FxHashMap::default(),
            last: Snapshot::default(),
            made: false,
        }
    }

    /// Makes the first table the successor of one that was made elsewhere, of which nothing else
    /// is taken over: generations go on counting up. Without effect once a table was made.
    pub fn follow(&mut self, last: Snapshot) {
        if !self.made {
            self.last = last;
        }
    }

    /// Takes a change in. The table follows at the next [`Resolver::resolve`].
    ///
    /// Returns what is wrong with the object, as far as that is new.
    pub fn apply(&mut self, change: Change) -> Vec<Notice> {
        match change {
            Change::Service(service) => self.apply_service(&service),
            Change::DeleteService(name) => {
                self.set_service(&name, None);
                self.set_unserved(&name, None);
                self.tell(ObjectName::Service(name), Vec::new())
            }
            Change::Slice(slice) => self.apply_slice(&slice),
            Change::DeleteSlice { namespace, name } => {
                let name = SliceName { namespace, name };
                if self.set_slice(&name, None) {
                    self.changes.slices += 1;
                }
                self.tell(ObjectName::Slice(name), Vec::new())
            }
            Change::Node(node) => self.apply_node(&node),
            Change::DeleteNode(name) => {
                if name == self.config.node_name {
                    self.set_zone(None);
                    self.set_node(NodeFacts::default());
                }
                Vec::new()
            }
        }
    }

    /// Makes the next table, unless what changed since the last one is not visible in it. The
    /// first call always makes one: that there is nothing is news as well.
    ///
    /// Only Services touched since the last call are computed anew, and nothing is done for the
    /// others. The notices are conflicts that the table before did not have.
    pub fn resolve(&mut self) -> Option<(Snapshot, Vec<Notice>)> {
        let touched = std::mem::take(&mut self.touched);
        let rebuilt: Vec<_> = touched.into_iter().filter_map(|name| self.rebuild(name)).collect();
        self.names.sweep();
        let first = !std::mem::replace(&mut self.made, true);
        let same_unserved = self.last.unserved().ptr_eq(&self.unserved);
        let same_node = Arc::ptr_eq(self.last.node(), &self.node);
        if !first && rebuilt.is_empty() && same_unserved && same_node {
            // They brought nothing that could have been late.
            self.changes.triggers.clear();
            return None;
        }
        let next = if first {
            // Nothing is known of what is in the table that is followed.
            let services = self.services.values().flat_map(|entry| &entry.ports).cloned();
            Snapshot::new(self.last.generation() + 1, services.collect()).0
        } else {
            self.last.next(&rebuilt)
        };
        let next = next.with_unserved(self.unserved.clone()).with_node(Arc::clone(&self.node));
        let quiet = !first && next.disputes_as(&self.last);
        self.last = next.clone();
        let notices = if quiet { Vec::new() } else { self.tell_conflicts() };
        Some((next, notices))
    }

    /// What came in since the last call, which is to follow each [`Resolver::resolve`] that made a
    /// table. Changes that made none are in the next one's counts.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn apply_service(&mut self, service: &Service) -> Vec<Notice> {
        let Some((namespace, name)) = name_of(&service.metadata) else {
            return vec![Notice::Unnamed { kind: "Service" }];
        };
        let name = ServiceName::new(self.names.intern(namespace), name);
        let mut notices = Vec::new();
        let proxy_name = self.config.service_proxy_name.as_deref();
        let allowed = &self.config.allow_external_ips;
        let read = service::read(&name, service, proxy_name, allowed, &mut notices);
        let (facts, unserved) = match read {
            Ok(facts) => (Some(facts), None),
            Err(unserved) => (None, Some(unserved)),
        };
        self.set_service(&name, facts);
        self.set_unserved(&name, unserved);
        self.tell(ObjectName::Service(name), notices)
    }

    fn apply_slice(&mut self, slice: &EndpointSlice) -> Vec<Notice> {
        let Some((namespace, name)) = name_of(&slice.metadata) else {
            return vec![Notice::Unnamed { kind: "EndpointSlice" }];
        };
        let name = SliceName { namespace: self.names.intern(namespace), name: name.into() };
        let mut notices = Vec::new();
        let node_name = &self.config.node_name;
        let facts = slices::read(&name, slice, node_name, &mut self.names, &mut notices);
        if self.set_slice(&name, facts) {
            self.changes.slice(slice);
        }
        self.tell(ObjectName::Slice(name), notices)
    }

    fn apply_node(&mut self, node: &Node) -> Vec<Notice> {
        let Some(name) = node.metadata.name.as_deref().filter(|name| !name.is_empty()) else {
            return vec![Notice::Unnamed { kind: "Node" }];
        };
        if name == &*self.config.node_name {
            let labels = node.metadata.labels.as_ref();
            let zone = labels.and_then(|labels| labels.get(ZONE)).filter(|zone| !zone.is_empty());
            self.set_zone(zone.map(|zone| zone.as_str().into()));
            self.set_node(node::read(node));
        }
        Vec::new()
    }

    fn set_service(&mut self, name: &ServiceName, facts: Option<ServiceFacts>) {
        match self.services.get_mut(name) {
            Some(entry) if entry.facts == facts => return,
            Some(entry) => entry.facts = facts,
            None if facts.is_none() => return,
            None => {
                self.services.insert(name.clone(), Entry { facts, ..Entry::default() });
            }
        }
        self.changes.services += 1;
        self.touched.insert(name.clone());
    }

    fn set_unserved(&mut self, name: &ServiceName, unserved: Option<Unserved>) {
        if self.unserved.get(name) == unserved.as_ref() {
            return;
        }
        match unserved {
            Some(unserved) => self.unserved.insert(name.clone(), unserved),
            None => self.unserved.remove(name),
        };
    }

    /// Puts a slice where it belongs now. Its label may have moved it to another Service, so that
    /// two are touched. True: it says something else than before.
    fn set_slice(&mut self, name: &SliceName, facts: Option<SliceFacts>) -> bool {
        let mut changed = false;
        let owner = facts.as_ref().map(|facts| facts.service.clone());
        if let Some(previous) = self.slice_owners.get(name) {
            let entry = self.services.get_mut(previous).expect("a slice's owner has an entry");
            if facts.is_some() && entry.slices.get(&name.name) == facts.as_ref() {
                return false;
            }
            if owner.as_ref() != Some(previous) {
                entry.slices.remove(&name.name);
                self.touched.insert(previous.clone());
                self.slice_owners.remove(name);
                changed = true;
            }
        }
        if let (Some(owner), Some(facts)) = (owner, facts) {
            let entry = self.services.entry(owner.clone()).or_default();
            entry.slices.insert(Arc::clone(&name.name), facts);
            self.slice_owners.insert(name.clone(), owner.clone());
            self.touched.insert(owner);
            changed = true;
        }
        changed
    }

    /// All Services are computed anew: any may have hints to zones, and a node's zone changes
    /// about never.
    fn set_zone(&mut self, zone: Option<Arc<str>>) {
        if self.zone != zone {
            self.zone = zone;
            self.touched.extend(self.services.keys().cloned());
        }
    }

    fn set_node(&mut self, node: NodeFacts) {
        if *self.node != node {
            self.node = Arc::new(node);
        }
    }

    /// Computes a Service's ServicePorts. None: they are what they were.
    fn rebuild(&mut self, name: ServiceName) -> Option<(ServiceName, Vec<Arc<ServicePort>>)> {
        let entry = self.services.get_mut(&name)?;
        let zone = self.zone.as_deref();
        let ports = match &entry.facts {
            Some(facts) => build::service_ports(&name, facts, &entry.slices, zone, &entry.ports),
            None => Vec::new(),
        };
        let changed = ports.len() != entry.ports.len()
            || !ports.iter().zip(&entry.ports).all(|(new, old)| Arc::ptr_eq(new, old));
        entry.ports.clone_from(&ports);
        if entry.facts.is_none() && entry.slices.is_empty() {
            self.services.remove(&name);
        }
        changed.then_some((name, ports))
    }

    /// Remembers what holds of an object now and returns what of it is new.
    fn tell(&mut self, object: ObjectName, notices: Vec<Notice>) -> Vec<Notice> {
        if notices.is_empty() {
            self.told.remove(&object);
            return notices;
        }
        let told = self.told.entry(object).or_default();
        let new = notices.iter().filter(|notice| !told.contains(notice)).cloned().collect();
        *told = notices;
        new
    }

    /// Remembers the conflicts of the new table and returns those the one before did not have.
    fn tell_conflicts(&mut self) -> Vec<Notice> {
        let told = std::mem::take(&mut self.told_conflicts);
        let mut notices = Vec::new();
        for conflict in self.last.conflicts() {
            let claim = (conflict.address, conflict.port, conflict.refused.clone());
            let is_new = told.get(&claim) != Some(&conflict.owner);
            self.told_conflicts.insert(claim, conflict.owner.clone());
            if is_new {
                notices.push(Notice::Conflict(conflict));
            }
        }
        notices
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("generation", &self.last.generation())
            .field("services", &self.services.len())
            .field("slices", &self.slice_owners.len())
            .field("touched", &self.touched.len())
            .finish_non_exhaustive()
    }
}

/// An object's namespace (`default` where it is missing) and name. None: it has no name.
fn name_of(metadata: &ObjectMeta) -> Option<(&str, &str)> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    Some((namespace.unwrap_or("default"), name))
}
