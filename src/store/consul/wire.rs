//! Consul's JSON (<https://developer.hashicorp.com/consul/api-docs>), as much of it as is used.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// A key in a listing, or a result of a transaction, which leaves the value out.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Row {
    pub(super) key: String,
    value: Option<String>,
    pub(super) modify_index: u64,
}

impl Row {
    /// The value; nothing if it is no base64, which Consul does not send.
    pub(super) fn value(&self) -> Option<Vec<u8>> {
        match &self.value {
            Some(text) => BASE64.decode(text.as_bytes()).ok(),
            None => Some(Vec::new()),
        }
    }
}

/// The keys of a listing.
pub(super) fn rows(body: &[u8]) -> Result<Vec<Row>, serde_json::Error> {
    serde_json::from_slice(body)
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Operation {
    pub(super) verb: &'static str,
    pub(super) key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
}

impl Operation {
    pub(super) fn new(verb: &'static str, key: &str) -> Self {
        Self { verb, key: key.to_owned(), value: None, index: None, session: None }
    }

    pub(super) fn with_value(self, value: &[u8]) -> Self {
        Self { value: Some(BASE64.encode(value)), ..self }
    }
}

#[derive(Serialize)]
struct Wrapped<'a> {
    #[serde(rename = "KV")]
    kv: &'a Operation,
}

/// The body of a request to `/v1/txn`.
pub(super) fn transaction<'a>(operations: impl Iterator<Item = &'a Operation>) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&operations.map(|kv| Wrapped { kv }).collect::<Vec<_>>())
}

/// The answer of `/v1/txn`: results if it was carried out, errors if not.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Done {
    results: Option<Vec<Unwrapped>>,
    errors: Option<Vec<Objection>>,
}

#[derive(Debug, Deserialize)]
struct Unwrapped {
    #[serde(rename = "KV")]
    kv: Row,
}

/// Why an operation did not work.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Objection {
    /// Which one, from 0.
    pub(super) op_index: usize,
    pub(super) what: String,
}

impl Done {
    pub(super) fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The newest of the indexes that the keys have now.
    pub(super) fn index(&self) -> u64 {
        self.results.iter().flatten().map(|result| result.kv.modify_index).max().unwrap_or(0)
    }

    pub(super) fn objections(&self) -> &[Objection] {
        self.errors.as_deref().unwrap_or_default()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NewSession {
    name: &'static str,
    #[serde(rename = "TTL")]
    ttl: String,
    behavior: &'static str,
    lock_delay: &'static str,
    node_checks: [&'static str; 0],
    service_checks: [&'static str; 0],
}

/// The body of a request for a session that ends by its TTL alone, not with the health of the agent that made it, takes its keys
/// with it, and leaves no delay behind for whoever wants them next.
pub(super) fn new_session(ttl_s: u32) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&NewSession {
        name: "weft",
        ttl: format!("{ttl_s}s"),
        behavior: "delete",
        lock_delay: "0s",
        node_checks: [],
        service_checks: [],
    })
}

/// The name of a new session, a UUID.
pub(super) fn session_name(body: &[u8]) -> Result<String, serde_json::Error> {
    #[derive(Deserialize)]
    struct Made {
        #[serde(rename = "ID")]
        id: String,
    }
    serde_json::from_slice(body).map(|Made { id }| id)
}
