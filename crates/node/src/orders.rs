//! What the keeper of the kernel's rules is told, and what it says to that.

use tokio::sync::watch;

/// What to do with the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Keep them true.
    Keep,
    /// Touch nothing: another agent has them, for now.
    Hold,
    /// Leave them as they are, for good: another agent has them.
    Leave,
    /// Close the gate, and give them back to be removed.
    Remove,
}

/// The side that tells.
#[derive(Debug)]
pub(crate) struct Orders {
    order: watch::Sender<Order>,
    obeyed: watch::Receiver<Option<Order>>,
}

/// The side that is told.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) order: watch::Receiver<Order>,
    obeyed: watch::Sender<Option<Order>>,
}

/// Both sides, beginning with this order.
pub(crate) fn orders(first: Order) -> (Orders, Ordered) {
    let (order, ordered) = watch::channel(first);
    let (obeying, obeyed) = watch::channel(None);
    (Orders { order, obeyed }, Ordered { order: ordered, obeyed: obeying })
}

impl Orders {
    /// Tells, without waiting.
    pub(crate) fn give(&self, order: Order) {
        self.order.send_replace(order);
    }

    /// What was told last.
    pub(crate) fn last(&self) -> Order {
        *self.order.borrow()
    }

    /// Tells, and waits until it is so: for [`Order::Keep`], until a first table's rules are in
    /// the kernel. Ready too when nobody is there to be told.
    pub(crate) async fn carried_out(&self, order: Order) {
        self.give(order);
        let _ = self.obeyed.clone().wait_for(|obeyed| *obeyed == Some(order)).await;
    }
}

impl Ordered {
    /// Says that the rules are now as this order has them.
    pub(crate) fn obey(&self, order: Order) {
        self.obeyed.send_replace(Some(order));
    }

    /// Ready when there is another order, or nobody gives any more.
    pub(crate) async fn changed(&mut self) {
        let _ = self.order.changed().await;
    }

    /// The same, without taking note: whoever waits for it next has it too.
    pub(crate) async fn pending(&self) {
        let _ = self.order.clone().changed().await;
    }

    /// The order of now. Where nobody gives any more, the process ends without a word, and the
    /// rules stay as after a crash.
    pub(crate) fn now(&mut self) -> Order {
        match self.order.has_changed() {
            Ok(_) => *self.order.borrow_and_update(),
            Err(_) => Order::Leave,
        }
    }
}
