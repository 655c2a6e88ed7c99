//! Which ServicePort has which address, and who claims it in vain.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap};
use rustc_hash::FxBuildHasher;

use crate::{AddressKind, Conflict, Protocol, ServicePort, ServicePortName};

/// (address, port, protocol). Without an address it is a node port.
pub(crate) type Place = (Option<IpAddr>, u16, Protocol);

/// The owner of each place: of all that claim it, one whose ClusterIP it is comes before one whose
/// load balancer's address it is, that one before one whose externalIP it is (CVE-2020-8554), and
/// among equals the first in name order.
///
/// Cheap to clone; a clone shares everything but what is changed later, so that a change costs its
/// own places and the way to them.
///
/// Invariants: a place has an owner exactly while somebody claims it; `refused` has no place
/// without an owner, no empty list, and each list is sorted by rank and names nobody twice.
#[derive(Clone, Default)]
pub(crate) struct Claims {
    owners: GenericHashMap<Place, Arc<ServicePort>, FxBuildHasher, DefaultSharedPtr>,
    /// Who claims what another one has. Empty in a sound cluster.
    refused: OrdMap<Place, Arc<[Arc<ServicePort>]>>,
}

/// What a ServicePort claims. An address that is listed as two kinds comes twice.
pub(crate) fn claimed(service: &ServicePort) -> impl Iterator<Item = Place> {
    let protocol = service.name.protocol;
    let addresses = service.addresses().map(move |ip| (Some(ip), service.port, protocol));
    addresses.chain(service.node_port.map(|port| (None, port, protocol)))
}

/// The lower of two that claim a place has it.
pub(crate) fn rank(place: Place, service: &ServicePort) -> (Option<AddressKind>, &ServicePortName) {
    (place.0.and_then(|ip| service.kind_of(ip)), &service.name)
}

impl Claims {
    /// A ServicePort is there, under a name that had no claims.
    pub(crate) fn add(&mut self, service: &Arc<ServicePort>) {
        for place in claimed(service) {
            match self.owners.get(&place) {
                Some(owner) if owner.name == service.name => {}
                Some(owner) if rank(place, owner) < rank(place, service) => {
                    self.refuse(place, Arc::clone(service));
                }
                _ => {
                    if let Some(before) = self.owners.insert(place, Arc::clone(service)) {
                        self.refuse(place, before);
                    }
                }
            }
        }
    }

    /// A ServicePort is gone.
    pub(crate) fn remove(&mut self, service: &ServicePort) {
        for place in claimed(service) {
            let waiting = self.refused.get(&place).cloned().unwrap_or_default();
            let has_it = |owner: &Arc<ServicePort>| owner.name == service.name;
            let left = if self.owners.get(&place).is_some_and(has_it) {
                match waiting.split_first() {
                    None => {
                        self.owners.remove(&place);
                        continue;
                    }
                    Some((heir, others)) => {
                        self.owners.insert(place, Arc::clone(heir));
                        others.into()
                    }
                }
            } else {
                waiting.iter().filter(|other| other.name != service.name).cloned().collect()
            };
            self.set_refused(place, left);
        }
    }

    /// A ServicePort changed in something else than its name and its places.
    pub(crate) fn replace(&mut self, service: &Arc<ServicePort>) {
        for place in claimed(service) {
            if self.owners.get(&place).is_some_and(|owner| owner.name == service.name) {
                self.owners.insert(place, Arc::clone(service));
            } else if let Some(waiting) = self.refused.get(&place) {
                let newest = |other: &Arc<ServicePort>| {
                    Arc::clone(if other.name == service.name { service } else { other })
                };
                let newest = waiting.iter().map(newest).collect();
                self.set_refused(place, newest);
            }
        }
    }

    fn refuse(&mut self, place: Place, service: Arc<ServicePort>) {
        let mut waiting =
            self.refused.get(&place).map_or_else(Vec::new, |refused| refused.to_vec());
        let wanted = rank(place, &service);
        if let Err(index) = waiting.binary_search_by(|other| rank(place, other).cmp(&wanted)) {
            waiting.insert(index, service);
        }
        self.set_refused(place, waiting.into());
    }

    fn set_refused(&mut self, place: Place, refused: Arc<[Arc<ServicePort>]>) {
        if refused.is_empty() {
            self.refused.remove(&place);
        } else {
            self.refused.insert(place, refused);
        }
    }

    pub(crate) fn owner(&self, place: Place) -> Option<&Arc<ServicePort>> {
        self.owners.get(&place)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, &Arc<ServicePort>)> {
        self.owners.iter().map(|(place, owner)| (*place, owner))
    }

    /// By place, then by who is refused; node ports first.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.refused.iter().flat_map(|(place, refused)| {
            let owner = &self.owners.get(place).expect("who is refused, is so by an owner").name;
            let &(address, port, _) = place;
            refused.iter().map(move |refused| Conflict {
                address,
                port,
                owner: owner.clone(),
                refused: refused.name.clone(),
            })
        })
    }

    /// True: the same conflicts, and nothing was done to them. Errs towards false.
    pub(crate) fn disputes_as(&self, other: &Self) -> bool {
        self.refused.ptr_eq(&other.refused) || self.refused.is_empty() && other.refused.is_empty()
    }
}
