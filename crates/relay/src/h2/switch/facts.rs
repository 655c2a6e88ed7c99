//! What the switch wants to know of a header block, and whether it may pass it on (RFC 9113
//! section 8).

use std::rc::Rc;
use std::time::Duration;

use super::hpack::{Field, Fields, HeaderList};
use crate::h2::deadline::grpc_timeout;

/// A header block, decoded, with what was found out about it.
pub(super) type Block = Rc<HeaderList<Facts>>;

/// Which rules a block has to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    Request = 0,
    Response = 1,
    Trailers = 2,
}

/// What a method changes for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// The response has no body, whatever its `content-length` says.
    Head,
    /// A tunnel.
    Connect,
    Other,
}

/// What was found in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// RFC 9113 section 8.1.1: it must not be passed on.
    pub(super) malformed: bool,
    pub(super) method: Method,
    /// `:protocol` stands there (RFC 8441).
    pub(super) extended: bool,
    /// `:status`, 0 where there is none.
    pub(super) status: u16,
    /// `content-type: application/grpc...`
    pub(super) grpc: bool,
    pub(super) grpc_status: Option<u32>,
    /// `grpc-timeout`
    pub(super) grpc_timeout: Option<Duration>,
    pub(super) content_length: Option<u64>,
}

impl Facts {
    /// A response that is followed by another one (RFC 9110 section 15.2).
    pub(super) fn informational(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// Octets of DATA that must follow a request's head.
    pub(super) fn request_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Octets of DATA that must follow a final response's head. None: any number.
    pub(super) fn response_length(&self, method: Method) -> Option<u64> {
        match (method, self.status) {
            (Method::Head, _) | (_, 204 | 304) => Some(0),
            (Method::Connect, 200..300) => None,
            _ => self.content_length,
        }
    }
}

/// Pseudo-header fields, as bits of those that were seen.
const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const PATH: u8 = 4;
const AUTHORITY: u8 = 8;
const STATUS: u8 = 16;
const PROTOCOL: u8 = 32;

/// Reads a block.
pub(super) fn facts(kind: BlockKind, fields: Fields<'_>) -> Facts {
    let mut reader = Reader {
        kind,
        pseudo: 0,
        regular: false,
        facts: Facts {
            malformed: false,
            method: Method::Other,
            extended: false,
            status: 0,
            grpc: false,
            grpc_status: None,
            grpc_timeout: None,
            content_length: None,
        },
    };
    for field in fields {
        if !reader.field(&field) {
            reader.facts.malformed = true;
            return reader.facts;
        }
    }
    reader.facts.malformed = !reader.complete();
    reader.facts
}

struct Reader {
    kind: BlockKind,
    pseudo: u8,
    /// A regular field has come: pseudo-header fields must not follow.
    regular: bool,
    facts: Facts,
}

impl Reader {
    /// False: malformed.
    fn field(&mut self, field: &Field<'_>) -> bool {
        if !legal_value(field.value) {
            return false;
        }
        match field.name.strip_prefix(b":") {
            Some(name) => !self.regular && self.pseudo_field(name, field.value),
            None => {
                self.regular = true;
                legal_name(field.name) && self.regular_field(field.name, field.value)
            }
        }
    }

    /// RFC 9113 section 8.3: only the defined ones, each once, none in trailers.
    fn pseudo_field(&mut self, name: &[u8], value: &[u8]) -> bool {
        let bit = match (self.kind, name) {
            (BlockKind::Request, b"method") => {
                self.facts.method = match value {
                    b"HEAD" => Method::Head,
                    b"CONNECT" => Method::Connect,
                    _ => Method::Other,
                };
                if value.is_empty() {
                    return false;
                }
                METHOD
            }
            (BlockKind::Request, b"scheme") => SCHEME,
            (BlockKind::Request, b"path") => {
                if value.is_empty() {
                    return false;
                }
                PATH
            }
            (BlockKind::Request, b"authority") => AUTHORITY,
            (BlockKind::Request, b"protocol") => {
                self.facts.extended = true;
                PROTOCOL
            }
            (BlockKind::Response, b"status") => {
                let &[a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] = value else {
                    return false;
                };
                let digit = |octet: u8| u16::from(octet - b'0');
                self.facts.status = digit(a) * 100 + digit(b) * 10 + digit(c);
                // Nothing is switched to another protocol in HTTP/2 (RFC 9113 section 8.6).
                if self.facts.status == 101 {
                    return false;
                }
                STATUS
            }
            _ => return false,
        };
        let first = self.pseudo & bit == 0;
        self.pseudo |= bit;
        first
    }

    fn regular_field(&mut self, name: &[u8], value: &[u8]) -> bool {
        match name {
            // RFC 9113 section 8.2.2: these speak of one connection.
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding"
            | b"upgrade" => false,
            b"te" => value == b"trailers",
            b"content-type" => {
                self.facts.grpc = value.starts_with(b"application/grpc");
                true
            }
            b"grpc-status" => {
                self.facts.grpc_status = number(value).and_then(|number| number.try_into().ok());
                true
            }
            b"grpc-timeout" => {
                self.facts.grpc_timeout = grpc_timeout(value);
                true
            }
            b"content-length" => {
                let length = number(value);
                let agrees = self.facts.content_length.is_none_or(|other| Some(other) == length);
                self.facts.content_length = length;
                length.is_some() && agrees
            }
            _ => true,
        }
    }

    /// RFC 9113 sections 8.3.1, 8.3.2 and 8.5, RFC 8441 section 4.
    fn complete(&self) -> bool {
        match (self.kind, self.facts.method) {
            (BlockKind::Request, Method::Connect) if !self.facts.extended => {
                self.pseudo == METHOD | AUTHORITY
            }
            (BlockKind::Request, Method::Connect) => {
                let needed = METHOD | SCHEME | PATH | AUTHORITY | PROTOCOL;
                self.pseudo == needed
            }
            (BlockKind::Request, _) => {
                self.pseudo & !AUTHORITY == METHOD | SCHEME | PATH && !self.facts.extended
            }
            (BlockKind::Response, _) => self.pseudo == STATUS,
            (BlockKind::Trailers, _) => self.pseudo == 0,
        }
    }
}

/// What a name may consist of (RFC 9110 section 5.1, RFC 9113 section 8.2.1): lower case.
fn legal_name(name: &[u8]) -> bool {
    const LEGAL: [bool; 256] = {
        let mut legal = [false; 256];
        let mut octet = 0;
        while octet < 256 {
            legal[octet] = matches!(octet as u8,
                b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*'
                | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
            octet += 1;
        }
        legal
    };
    !name.is_empty() && name.iter().all(|&octet| LEGAL[usize::from(octet)])
}

/// RFC 9113 section 8.2.1: no NUL, CR or LF, no white space around it.
fn legal_value(value: &[u8]) -> bool {
    let is_space = |octet: Option<&u8>| matches!(octet, Some(b' ' | b'\t'));
    let illegal = value.iter().fold(false, |illegal, octet| {
        illegal | (*octet == 0) | (*octet == b'\n') | (*octet == b'\r')
    });
    !illegal && !is_space(value.first()) && !is_space(value.last())
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0, |number: u64, octet| {
        octet.is_ascii_digit().then(|| number * 10 + u64::from(octet - b'0'))
    })
}
