//! One connection at a time, replaced when it takes no more calls: as every gRPC library does it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::Mutex;

use super::{Client, Failure};

/// A connection to an address, and after its end the next one.
#[derive(Debug)]
pub struct Line {
    address: SocketAddr,
    client: RefCell<Client>,
    renewing: Mutex<()>,
    renewals: Cell<u64>,
    begun: Cell<Instant>,
}

impl Line {
    /// Makes the first connection.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let begun = Cell::new(Instant::now());
        let client = RefCell::new(Client::connect(address).await?);
        Ok(Self { address, client, renewing: Mutex::new(()), renewals: Cell::new(0), begun })
    }

    /// Its connection, or a new one when that takes no more calls.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn client(&self) -> Result<Client, Failure> {
        let client = self.client.borrow().clone();
        if client.ready().await.is_ok() {
            return Ok(client);
        }
        // One caller makes the new connection; the others wait for it and find it usable.
        let _renewing = self.renewing.lock().await;
        let client = self.client.borrow().clone();
        if client.ready().await.is_ok() {
            return Ok(client);
        }
        let begun = Instant::now();
        let client = Client::connect(self.address).await?;
        self.begun.set(begun);
        self.renewals.set(self.renewals.get() + 1);
        self.client.replace(client.clone());
        Ok(client)
    }

    /// When it began to make the connection that [`client`](Self::client) gave last.
    pub fn begun(&self) -> Instant {
        self.begun.get()
    }

    /// How many connections have been made after the first.
    pub fn renewals(&self) -> u64 {
        self.renewals.get()
    }
}
