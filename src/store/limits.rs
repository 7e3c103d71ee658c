//! What every backend refuses alike, so that a record that one store takes is taken by all.

use std::collections::BTreeSet;

use super::{Compare, StoreError, Transaction, Write};

/// The largest value, in bytes. Records are hundreds of bytes, reports of a busy node some thousand; the tightest store is Consul.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

/// The most compares, and the most writes, of one transaction. Consul takes 64 operations, and a write can be two of them; etcd's
/// own default is 128 (`--max-txn-ops`).
pub const OPERATIONS_MAX: usize = 20;

/// The most bytes of keys and values in one transaction. Consul takes 512 KiB of JSON (`txn_max_req_len`), where values are base64,
/// a third longer; ZooKeeper takes 1 MiB (`jute.maxbuffer`), etcd 1.5 MiB (`--max-request-bytes`).
pub const TRANSACTION_BYTES_MAX: usize = 320 * 1024;

/// Refuses what can never succeed: an empty key, too much of something, or one key written twice (etcd refuses that too,
/// because the outcome would hang on the order).
pub(super) fn check(transaction: &Transaction) -> Result<(), StoreError> {
    let Transaction { compares, writes } = transaction;
    for (count, what) in [(compares.len(), "compares"), (writes.len(), "writes")] {
        if count > OPERATIONS_MAX {
            return Err(StoreError::Refused(format!(
                "{count} {what} in one transaction; {OPERATIONS_MAX} is the most"
            )));
        }
    }
    let compared = compares.iter().map(|compare| match compare {
        Compare::Absent(key) | Compare::Unchanged(key, _) => key.len(),
    });
    let mut bytes = compared.sum::<usize>();
    let mut written = BTreeSet::new();
    for write in writes {
        let (key, value_bytes) = match write {
            Write::Put { key, value, .. } => (key, value.len()),
            Write::Delete { key } => (key, 0),
        };
        if key.is_empty() {
            return Err(StoreError::Refused("a key cannot be empty".to_owned()));
        }
        if value_bytes > VALUE_BYTES_MAX {
            return Err(StoreError::Refused(format!(
                "the value of {key:?} has {value_bytes} bytes; {VALUE_BYTES_MAX} is the most"
            )));
        }
        if !written.insert(key) {
            return Err(StoreError::Refused(format!("the transaction writes {key:?} twice")));
        }
        bytes += key.len() + value_bytes;
    }
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(StoreError::Refused(format!(
            "{bytes} bytes in one transaction; {TRANSACTION_BYTES_MAX} is the most: split it"
        )));
    }
    Ok(())
}
