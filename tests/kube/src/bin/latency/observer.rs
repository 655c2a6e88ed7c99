//! A watcher beside the proxy: the moment at which a change could be known at the earliest.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use futures_util::StreamExt;
use streamvs_support::lab::Host;
use streamvs_test_kube::Api;

/// Watches one EndpointSlice from `node` until the receiver is gone. Gives the moment of each
/// event; the first one is the slice as it is.
pub(crate) fn observe(node: &Host, kubeconfig: PathBuf, slice: &str) -> Receiver<Instant> {
    let (moments, receiver) = channel();
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices\
         ?watch=true&fieldSelector=metadata.name%3D{slice}"
    );
    let also = node.clone();
    // The thread ends with the program, or when a next event finds nobody listening.
    node.spawn(move || {
        also.block_on(|| async move {
            let api = Api::new(&kubeconfig).await;
            let mut events = api.watch(&path).await.expect("the API server lets admins watch");
            while let Some(Ok(_)) = events.next().await {
                if moments.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
    });
    receiver
}
