//! All connections of a worker, those among them that have something to write, and the buffers
//! they take turns with.

use slotmap::SlotMap;

use super::connection::Connection;
use super::output::Queue;
use super::{ConnectionKey, limits};

/// The connections, by key.
#[derive(Default)]
pub(super) struct Connections {
    /// Boxed, so that what the map keeps in reserve costs a pointer for each.
    map: SlotMap<ConnectionKey, Box<Connection>>,
    /// Each at most once.
    dirty: Vec<ConnectionKey>,
    #[expect(
        clippy::vec_box,
        reason = "they are lent as boxes, so that idle connections are small"
    )]
    spare: Vec<Box<Queue>>,
    /// What those hold.
    spare_octets: usize,
}

impl Connections {
    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionKey {
        self.map.insert(Box::new(connection))
    }

    pub(super) fn remove(&mut self, key: ConnectionKey) -> Option<Box<Connection>> {
        let connection = self.map.remove(key)?;
        self.dirty.retain(|dirty| *dirty != key);
        Some(connection)
    }

    pub(super) fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        self.map.get(key).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.map.get_mut(key).map(Box::as_mut)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ConnectionKey, &mut Connection)> {
        self.map.iter_mut().map(|(key, connection)| (key, connection.as_mut()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionKey, &Connection)> {
        self.map.iter().map(|(key, connection)| (key, connection.as_ref()))
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// A connection that is about to be written to. None: it is gone, or over.
    pub(super) fn writer(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        let connection = self.map.get_mut(key)?;
        if connection.is_over() {
            return None;
        }
        if !connection.output.has_memory()
            && let Some(spare) = self.spare.pop()
        {
            self.spare_octets -= spare.memory_octets();
            connection.output.give_memory(spare);
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(key);
        }
        Some(connection)
    }

    /// Gives back credit of a whole connection, where there still is one.
    pub(super) fn returns(&mut self, key: ConnectionKey, octets: usize) {
        if octets == 0 {
            return;
        }
        let Some(connection) = self.map.get_mut(key) else {
            return;
        };
        connection.returns(octets);
        if connection.unreturned >= limits::CONNECTION_UPDATE_OCTETS
            && let Some(connection) = self.writer(key)
        {
            connection.update_window();
        }
    }

    /// Gives up the buffers that nobody uses.
    pub(super) fn give_back(&mut self) {
        self.spare = Vec::new();
        self.spare_octets = 0;
    }

    /// The next one that has something to write, or to tell.
    pub(super) fn next_dirty(&mut self) -> Option<ConnectionKey> {
        let key = self.dirty.pop()?;
        if let Some(connection) = self.map.get_mut(key) {
            connection.dirty = false;
        }
        Some(key)
    }

    /// Octets of a connection's output have left for the socket.
    pub(super) fn written(&mut self, key: ConnectionKey, octets: usize) {
        let Some(connection) = self.map.get_mut(key) else {
            return;
        };
        let octets = octets.min(connection.output.len());
        connection.output.advance(octets);
        connection.written += octets as u64;
        if let Some(mut memory) = connection.output.take_memory() {
            memory.shrink_to(limits::SPARE_OCTETS);
            let octets = self.spare_octets + memory.memory_octets();
            if self.spare.len() < limits::SPARE_COUNT && octets <= limits::SPARE_TOTAL_OCTETS {
                self.spare_octets = octets;
                self.spare.push(memory);
            }
        }
    }
}
