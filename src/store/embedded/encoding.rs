//! Records and commits as bytes in the file. All numbers are little-endian.
//!
//! A record: created, modified, version (u64), lease (i64), then the value to the end.
//! A commit: for each change its key, the record before and the record after; each as a u32 length and that many bytes,
//! a record that is absent as the length [`ABSENT`].

use super::request::{Change, Commit, KvError, Record};

/// In place of a length: there is no record. No real length comes near it (values end at 1 MiB).
const ABSENT: u32 = u32::MAX;

pub(super) fn encode_record(record: &Record) -> Vec<u8> {
    let Record { created, modified, version, lease, value } = record;
    let mut bytes = Vec::with_capacity(32 + value.len());
    bytes.extend_from_slice(&created.to_le_bytes());
    bytes.extend_from_slice(&modified.to_le_bytes());
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&lease.to_le_bytes());
    bytes.extend_from_slice(value);
    bytes
}

pub(super) fn decode_record(bytes: &[u8]) -> Result<Record, KvError> {
    let mut cursor = Cursor(bytes);
    Ok(Record {
        created: u64::from_le_bytes(cursor.array()?),
        modified: u64::from_le_bytes(cursor.array()?),
        version: u64::from_le_bytes(cursor.array()?),
        lease: i64::from_le_bytes(cursor.array()?),
        value: cursor.0.to_vec(),
    })
}

pub(super) fn encode_changes(changes: &[Change]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(changes.iter().map(|change| change.bytes() + 40).sum());
    for Change { key, before, after } in changes {
        put_part(&mut bytes, Some(key));
        put_part(&mut bytes, before.as_ref().map(encode_record).as_deref());
        put_part(&mut bytes, after.as_ref().map(encode_record).as_deref());
    }
    bytes
}

pub(super) fn decode_commit(revision: u64, bytes: &[u8]) -> Result<Commit, KvError> {
    let mut cursor = Cursor(bytes);
    let mut changes = Vec::new();
    while !cursor.0.is_empty() {
        changes.push(Change {
            key: cursor.part()?.ok_or_else(damaged)?.to_vec(),
            before: cursor.part()?.map(decode_record).transpose()?,
            after: cursor.part()?.map(decode_record).transpose()?,
        });
    }
    Ok(Commit { revision, changes })
}

fn put_part(bytes: &mut Vec<u8>, part: Option<&[u8]>) {
    // A part is a key or a record, and both are bounded far below 4 GiB before they come here.
    let length = part.map_or(ABSENT, |part| u32::try_from(part.len()).unwrap_or(ABSENT));
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(part.unwrap_or_default());
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], KvError> {
        let (head, rest) = self.0.split_first_chunk().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn part(&mut self) -> Result<Option<&'a [u8]>, KvError> {
        let length = u32::from_le_bytes(self.array()?);
        if length == ABSENT {
            return Ok(None);
        }
        let (part, rest) =
            usize::try_from(length).ok().and_then(|at| self.0.split_at_checked(at)).ok_or_else(damaged)?;
        self.0 = rest;
        Ok(Some(part))
    }
}

fn damaged() -> KvError {
    KvError::Storage("a row is shorter than its header says: the file is damaged; restore it from a copy".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_survives_and_a_cut_one_is_refused() {
        let record = |value: &[u8]| Record { created: 2, modified: 7, version: 3, lease: -5, value: value.to_vec() };
        let changes = vec![
            Change { key: b"a".to_vec(), before: None, after: Some(record(b"")) },
            Change { key: b"b".to_vec(), before: Some(record(b"old")), after: Some(record(b"new")) },
            Change { key: b"c".to_vec(), before: Some(record(b"gone")), after: None },
        ];
        let bytes = encode_changes(&changes);
        assert_eq!(decode_commit(7, &bytes).unwrap(), Commit { revision: 7, changes });
        let whole = [decode_commit(7, &bytes[..81]), decode_commit(7, &bytes[..bytes.len() - 1])];
        assert!(whole.iter().all(|result| matches!(result, Err(KvError::Storage(_)))), "{whole:?}");
    }
}
