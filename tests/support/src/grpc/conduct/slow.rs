//! Answers as promised, late.

use std::time::Duration;

use crate::grpc::call::Call;

pub(super) async fn answer(call: Call, delay: Duration) -> Result<(), h2::Error> {
    tokio::time::sleep(delay).await;
    super::steady::answer(call).await
}
