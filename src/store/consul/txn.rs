//! A transaction in Consul's words, and its answer in ours.
//!
//! A compare is one check, a deletion one `delete`. A put is a `delete` and a `set`, or a `lock` under a lease, unless the
//! transaction says that the key is new: Consul's own `set` leaves a key in the session that has locked it, `lock` does not take it out
//! of another one, and a `set` to the value that is there is no change, where the trait wants a new revision. Consul does not say
//! at which index a deletion was done: one that stands alone sets its key in between, which tells.

use std::collections::BTreeSet;

use super::wire::{Done, Objection, Operation};
use crate::store::{Compare, LeaseId, Outcome, Revision, StoreError, Transaction, Write};

/// What is sent. Compares come first.
pub(super) struct Program {
    compares: usize,
    /// Each with the lease that it needs.
    operations: Vec<(Operation, Option<LeaseId>)>,
}

/// Consul's form of a key. Fails for keys that do not begin with a slash: two keys must not become one.
pub(super) fn wire_key(key: &str) -> Result<&str, StoreError> {
    let bare = key.strip_prefix('/').filter(|bare| !bare.is_empty());
    bare.ok_or_else(|| StoreError::Refused(format!("the key {key:?} does not begin with a slash, or is only that")))
}

/// Puts a transaction into Consul's words. `session` names the session of a lease; [`StoreError::LeaseGone`] if it knows none.
pub(super) fn program(
    transaction: &Transaction,
    session: impl Fn(LeaseId) -> Option<String>,
) -> Result<Program, StoreError> {
    let Transaction { compares, writes } = transaction;
    let mut absent = BTreeSet::new();
    let mut operations = Vec::new();
    for compare in compares {
        let operation = match compare {
            Compare::Absent(key) | Compare::Unchanged(key, Revision(0)) => {
                absent.insert(key);
                Operation::new("check-not-exists", wire_key(key)?)
            }
            Compare::Unchanged(key, Revision(index)) => {
                Operation { index: Some(*index), ..Operation::new("check-index", wire_key(key)?) }
            }
        };
        operations.push((operation, None));
    }
    let tells = writes.iter().any(|write| matches!(write, Write::Put { .. }));
    for (at, write) in writes.iter().enumerate() {
        match write {
            Write::Put { key, value, lease } => {
                let bare = wire_key(key)?;
                if !absent.contains(key) {
                    operations.push((Operation::new("delete", bare), None));
                }
                let put = match lease {
                    None => Operation::new("set", bare),
                    Some(lease) => {
                        let session = session(*lease).ok_or(StoreError::LeaseGone(*lease))?;
                        Operation { session: Some(session), ..Operation::new("lock", bare) }
                    }
                };
                operations.push((put.with_value(value), *lease));
            }
            Write::Delete { key } => {
                let bare = wire_key(key)?;
                operations.push((Operation::new("delete", bare), None));
                if at == 0 && !tells {
                    operations.push((Operation::new("set", bare).with_value(&[]), None));
                    operations.push((Operation::new("delete", bare), None));
                }
            }
        }
    }
    Ok(Program { compares: compares.len(), operations })
}

impl Program {
    pub(super) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().map(|(operation, _)| operation)
    }

    /// What the answer means. `denied` makes the error for a token that is not allowed to do this.
    ///
    /// A transaction that writes nothing has been carried out at the newest index among the keys that it compared.
    pub(super) fn outcome(&self, done: &Done, denied: impl Fn(&str) -> StoreError) -> Result<Outcome, StoreError> {
        let objections = done.objections();
        let Some(first) = objections.first() else { return Ok(Outcome::Committed(Revision(done.index()))) };
        if let Some(forbidden) = objections.iter().find(|objection| objection.what.contains("ermission denied")) {
            return Err(denied(&forbidden.what));
        }
        if objections.iter().any(|objection| objection.op_index < self.compares) {
            return Ok(Outcome::Conflict);
        }
        // Consul goes on behind an operation that fails. One that needs a session fails for nothing but that session.
        let gone = |objection: &Objection| self.operations.get(objection.op_index)?.1;
        Err(match objections.iter().find_map(gone) {
            Some(lease) => StoreError::LeaseGone(lease),
            None => StoreError::Refused(first.what.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, lease: Option<i64>) -> Write {
        Write::Put { key: key.to_owned(), value: b"v".to_vec(), lease: lease.map(LeaseId) }
    }

    fn delete(key: &str) -> Write {
        Write::Delete { key: key.to_owned() }
    }

    fn words(compares: Vec<Compare>, writes: Vec<Write>) -> Result<String, StoreError> {
        let known = |lease| (lease == LeaseId(7)).then(|| "S".to_owned());
        let program = program(&Transaction { compares, writes }, known)?;
        let word = |operation: &Operation| {
            let Operation { verb, key, value: _, index, session } = operation;
            let index = index.map(|index| format!("@{index}")).unwrap_or_default();
            format!("{verb} {key}{index}{}", session.as_deref().unwrap_or_default())
        };
        Ok(program.operations().map(word).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn what_is_sent() {
        let absent = || vec![Compare::Absent("/a".to_owned())];
        for (compares, writes, expected) in [
            (absent(), vec![put("/a", None)], "check-not-exists a, set a"),
            (absent(), vec![put("/a", Some(7))], "check-not-exists a, lock aS"),
            (vec![], vec![put("/a", None)], "delete a, set a"),
            (vec![], vec![put("/a", Some(7))], "delete a, lock aS"),
            (
                vec![Compare::Unchanged("/a".to_owned(), Revision(3))],
                vec![put("/a", None), delete("/b")],
                "check-index a@3, delete a, set a, delete b",
            ),
            (vec![Compare::Unchanged("/a".to_owned(), Revision(0))], vec![], "check-not-exists a"),
            (vec![], vec![delete("/a"), delete("/b")], "delete a, set a, delete a, delete b"),
        ] {
            assert_eq!(words(compares, writes).unwrap(), expected);
        }
        assert!(matches!(words(vec![], vec![put("/a", Some(8))]), Err(StoreError::LeaseGone(LeaseId(8)))));
        for key in ["a", "", "/"] {
            assert!(matches!(words(vec![], vec![put(key, None)]), Err(StoreError::Refused(_))), "{key:?}");
        }
    }

    /// The largest transaction that [`crate::store::limits`] lets through has no more operations and bytes than Consul takes.
    #[test]
    fn the_uniform_limits_fit() {
        use crate::store::limits::{OPERATIONS_MAX, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX, check};
        const CONSUL_OPERATIONS_MAX: usize = 64;
        const CONSUL_BODY_BYTES_MAX: usize = 512 * 1024;
        let key = |number: usize| format!("/{number:0>200}");
        let mut left = TRANSACTION_BYTES_MAX - 2 * OPERATIONS_MAX * key(0).len();
        let mut value = || {
            let bytes = left.min(VALUE_BYTES_MAX);
            left -= bytes;
            vec![7; bytes]
        };
        let compares = (0..OPERATIONS_MAX).map(|number| Compare::Unchanged(key(number), Revision(u64::MAX)));
        let puts =
            (0..OPERATIONS_MAX).map(|number| Write::Put { key: key(number), value: value(), lease: Some(LeaseId(7)) });
        let puts = Transaction { compares: compares.clone().collect(), writes: puts.collect() };
        let deletes = (0..OPERATIONS_MAX).map(|number| delete(&key(number)));
        let deletes = Transaction { compares: compares.collect(), writes: deletes.collect() };
        for transaction in [puts, deletes] {
            check(&transaction).unwrap();
            let session = |_| Some("11111111-2222-3333-4444-555555555555".to_owned());
            let program = program(&transaction, session).unwrap();
            assert!(program.operations().count() <= CONSUL_OPERATIONS_MAX);
            let body = crate::store::consul::wire::transaction(program.operations()).unwrap();
            assert!(body.len() <= CONSUL_BODY_BYTES_MAX, "{}", body.len());
        }
    }

    #[test]
    fn what_the_answer_means() {
        let transaction =
            Transaction { compares: vec![Compare::Absent("/c".to_owned())], writes: vec![put("/a", Some(7))] };
        let program = program(&transaction, |_| Some("S".to_owned())).unwrap();
        for (answer, expected) in [
            (
                r#"{"Results":[{"KV":{"Key":"c","ModifyIndex":4}},{"KV":{"Key":"a","ModifyIndex":9}}],"Errors":null}"#,
                "9",
            ),
            (
                r#"{"Errors":[{"OpIndex":0,"What":"key \"c\" exists"},{"OpIndex":2,"What":"invalid session"}]}"#,
                "conflict",
            ),
            (r#"{"Results":null,"Errors":[{"OpIndex":2,"What":"invalid session \"S\""}]}"#, "gone"),
            (r#"{"Results":null,"Errors":[{"OpIndex":0,"What":"Permission denied"}]}"#, "denied Permission denied"),
            (r#"{"Results":null,"Errors":[{"OpIndex":1,"What":"odd"}]}"#, "odd"),
        ] {
            let done = Done::read(answer.as_bytes()).unwrap();
            let outcome = program.outcome(&done, |what| StoreError::Refused(format!("denied {what}")));
            let told = match outcome {
                Ok(Outcome::Committed(revision)) => revision.0.to_string(),
                Ok(Outcome::Conflict) => "conflict".to_owned(),
                Err(StoreError::LeaseGone(LeaseId(7))) => "gone".to_owned(),
                Err(StoreError::Refused(what)) => what,
                Err(other) => panic!("{other}"),
            };
            assert_eq!(told, expected, "{answer}");
        }
    }
}
