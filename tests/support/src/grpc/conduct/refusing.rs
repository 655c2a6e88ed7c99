//! Refuses every stream before looking at it (RFC 9113 section 8.7): safe to try elsewhere.

use h2::Reason;

use crate::grpc::call::Call;

pub(super) fn answer(mut call: Call) {
    call.respond.send_reset(Reason::REFUSED_STREAM);
}
