//! What values a setting takes, in a file and on the command line.

use serde_json::{Map, Value};

use super::node::Node;
use crate::cli::values;

/// The type of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Bool,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// As Go writes it.
    Duration,
    /// Of texts; with commas on the command line.
    List,
    /// Names with true or false.
    Gates,
    /// Whatever is written.
    Anything,
    Address,
    BindAddress,
    Scheduler,
    Mode,
    LocalMode,
    LogFormat,
    /// From -1000 to 1000.
    OomScore,
}

impl Kind {
    /// For messages.
    pub(crate) fn accepted(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer => "a whole number".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Duration => values::DURATION.to_owned(),
            Self::List => "a list of texts".to_owned(),
            Self::Gates => "a mapping of names to true or false".to_owned(),
            Self::Anything => "anything".to_owned(),
            Self::Address => "an IP address".to_owned(),
            Self::BindAddress => values::BIND_ADDRESS.to_owned(),
            Self::Scheduler => {
                let names = streamvs_balance::SchedulerName::ALL;
                let names: Vec<_> = names.iter().map(|name| name.as_str()).collect();
                format!("one of {}", names.join(", "))
            }
            Self::Mode => "one of iptables, ipvs and nftables".to_owned(),
            Self::LocalMode => {
                "one of ClusterCIDR, NodeCIDR, BridgeInterface and InterfaceNamePrefix".to_owned()
            }
            Self::LogFormat => "one of text and json".to_owned(),
            Self::OomScore => "a whole number from -1000 to 1000".to_owned(),
        }
    }

    /// Reads what a file has. The value is as written; null, and an empty text where that is no
    /// text of this kind, are null: not set.
    ///
    /// # Errors
    /// It is no such value.
    pub(crate) fn read(self, node: &Node) -> Result<Value, ()> {
        let value = node.value();
        match &value {
            Value::Null => Ok(value),
            Value::String(text) if text.is_empty() && self != Self::Text => Ok(Value::Null),
            // `flushFrequency: 0` and the like.
            Value::Number(number) if self == Self::Duration && number.as_u64() == Some(0) => {
                Ok("0s".into())
            }
            _ if self.fits(&value) => Ok(value),
            _ => Err(()),
        }
    }

    fn fits(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Anything, _) => true,
            (Self::Bool, Value::Bool(_)) => true,
            (Self::Integer, Value::Number(number)) => {
                number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
            }
            (Self::Number, Value::Number(_)) => true,
            (Self::OomScore, Value::Number(number)) => {
                number.as_i64().is_some_and(|score| (-1000..=1000).contains(&score))
            }
            (Self::List, Value::Array(items)) => items.iter().all(Value::is_string),
            (Self::Gates, Value::Object(gates)) => gates.values().all(Value::is_boolean),
            (Self::Bool | Self::Integer | Self::Number | Self::OomScore, _) => false,
            (Self::List | Self::Gates, _) => false,
            (_, Value::String(text)) => self.fits_text(text),
            _ => false,
        }
    }

    fn fits_text(self, text: &str) -> bool {
        match self {
            Self::Duration => values::duration(text).is_ok(),
            Self::Address => text.parse::<std::net::IpAddr>().is_ok(),
            Self::BindAddress => values::bind_address(text).is_ok(),
            Self::Scheduler => values::scheduler(text).is_ok(),
            Self::Mode => ["iptables", "ipvs", "nftables"].contains(&text),
            Self::LocalMode => {
                ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
                    .contains(&text)
            }
            Self::LogFormat => ["text", "json"].contains(&text),
            _ => true,
        }
    }

    /// Reads what a flag has.
    ///
    /// # Errors
    /// What is accepted.
    pub(crate) fn parse(self, text: &str) -> Result<Value, String> {
        let value = match self {
            Self::Bool => values::boolean(text).ok().map(Value::Bool),
            Self::Integer | Self::OomScore => text.parse::<i64>().ok().map(Value::from),
            Self::Number => text.parse::<f64>().ok().map(Value::from),
            Self::List => Some(text.split(',').filter(|item| !item.is_empty()).collect()),
            Self::Gates => gates(text),
            _ => Some(text.into()),
        };
        let empty = text.is_empty() && !matches!(self, Self::Bool | Self::Integer | Self::Number);
        value
            .filter(|value| empty || self.fits(value))
            .ok_or_else(|| format!("{} is needed", self.accepted()))
    }

    /// The value as a flag has it.
    pub(crate) fn flag_text(self, value: &Value) -> String {
        match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// `A=true,B=false`
fn gates(text: &str) -> Option<Value> {
    let mut gates = Map::new();
    for gate in text.split(',').filter(|gate| !gate.is_empty()) {
        let (name, value) = gate.split_once('=')?;
        gates.insert(name.trim().to_owned(), values::boolean(value.trim()).ok()?.into());
    }
    Some(gates.into())
}
