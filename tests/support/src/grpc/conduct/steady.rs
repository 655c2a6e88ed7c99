//! Answers as the service promises.

use bytes::Bytes;

use crate::grpc::Kind;
use crate::grpc::call::{Answer, Call};

pub(super) async fn answer(call: Call) -> Result<(), h2::Error> {
    let kind = call.kind;
    let (mut requests, mut answer) = call.accept()?;
    match kind {
        Kind::Unary => {
            if let Some(message) = requests.next().await? {
                answer.send(&message).await?;
            }
        }
        Kind::ServerStream => {
            let message = requests.next().await?.unwrap_or_default();
            send_numbers(&mut answer, &message).await?;
        }
        Kind::ClientStream => {
            let mut count = 0_u64;
            while requests.next().await?.is_some() {
                count += 1;
            }
            answer.send(count.to_string().as_bytes()).await?;
        }
        Kind::Bidi => {
            while let Some(message) = requests.next().await? {
                answer.send(&message).await?;
            }
        }
    }
    answer.end(0)
}

async fn send_numbers(answer: &mut Answer, message: &Bytes) -> Result<(), h2::Error> {
    let count: u64 =
        std::str::from_utf8(message).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for number in 0..count {
        answer.send(number.to_string().as_bytes()).await?;
    }
    Ok(())
}
