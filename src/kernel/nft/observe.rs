//! Reads the table back as the model's value.

use std::collections::BTreeMap;

use nix::errno::Errno;

use crate::model::{Chain, ChainName, Connections, Rule, Ruleset, SetName};

use super::{
    TABLE, comment,
    element::{self, RawElement},
    schema::Declaration,
    socket::{NetlinkSocket, RequestError},
    wire::{self, Kind, nfta},
};

/// How often a read that met a change is repeated. A read of 20,000 elements takes some 20 ms; whoever changes nftables
/// without pause for as long as 16 of those is asked to wait for the next pass.
const READS_MAX: usize = 16;

/// `NFT_SET_ANONYMOUS`.
const FLAG_ANONYMOUS: u32 = 1;

/// What is under our name.
#[derive(Debug)]
pub(super) enum Table {
    /// No table.
    Absent,
    /// A table whose sets and chains are all of our making.
    Ours(Ruleset),
    /// A table with something in it that the model cannot name: what it is, for people.
    Misshapen(String),
}

/// The table at one moment.
pub(super) fn read_table(socket: &mut NetlinkSocket) -> Result<Table, RequestError> {
    at_one_moment(socket, |socket| {
        let mut flags = 0;
        let exists = match socket.get(
            Kind::GetTable,
            |table| table.text(nfta::TABLE_NAME, TABLE),
            |table| {
                flags = wire::number(table, nfta::TABLE_FLAGS).unwrap_or(0);
            },
        ) {
            Ok(()) => true,
            Err(RequestError::Refused(Errno::ENOENT)) => false,
            Err(error) => return Err(error),
        };
        if !exists {
            return Ok(Table::Absent);
        }
        if flags != 0 {
            return Ok(Table::Misshapen(format!(
                "the table has the flags {flags:#x}: it is dormant or somebody's own"
            )));
        }
        Ok(match read_ruleset(socket)? {
            Ok(ruleset) => Table::Ours(ruleset),
            Err(why) => Table::Misshapen(why),
        })
    })
}

/// The rules of one chain, or of all (`None`), with their handles; chains without rules do not show.
pub(super) fn read_rules(
    socket: &mut NetlinkSocket,
    chain: Option<ChainName>,
) -> Result<BTreeMap<String, Vec<(u64, Rule)>>, RequestError> {
    let mut chains: BTreeMap<String, Vec<(u64, Rule)>> = BTreeMap::new();
    let request = |rule: &mut wire::Attributes<'_>| {
        rule.text(nfta::RULE_TABLE, TABLE);
        if let Some(chain) = chain {
            rule.text(nfta::RULE_CHAIN, &chain.to_string());
        }
    };
    socket.dump(Kind::GetRule, request, |rule| {
        if wire::text(rule, nfta::RULE_TABLE) != Some(TABLE) {
            return;
        }
        let handle = wire::number64(rule, nfta::RULE_HANDLE).unwrap_or(0);
        let known = wire::attribute(rule, nfta::RULE_USERDATA).and_then(comment::read);
        let name = wire::text(rule, nfta::RULE_CHAIN).unwrap_or_default();
        chains.entry(name.to_owned()).or_default().push((handle, known.unwrap_or(Rule::Foreign(handle))));
    })?;
    Ok(chains)
}

/// What the chains of services have counted.
pub(super) fn read_connections(socket: &mut NetlinkSocket) -> Result<BTreeMap<ChainName, Connections>, RequestError> {
    let mut chains: BTreeMap<ChainName, Connections> = BTreeMap::new();
    let request = |rule: &mut wire::Attributes<'_>| rule.text(nfta::RULE_TABLE, TABLE);
    let read = socket.dump(Kind::GetRule, request, |rule| {
        let chain = wire::text(rule, nfta::RULE_CHAIN).and_then(|name| name.parse().ok());
        let known = wire::attribute(rule, nfta::RULE_USERDATA).and_then(comment::read);
        let (Some(chain), Some(known)) = (chain, known) else { return };
        let counted = counted(wire::attribute(rule, nfta::RULE_EXPRESSIONS).unwrap_or_default());
        match known {
            Rule::RecallPort { .. }
            | Rule::RecallVip { .. }
            | Rule::RememberPort { .. }
            | Rule::RememberVip { .. }
            | Rule::BalancePort { .. }
            | Rule::BalanceVip { .. } => chains.entry(chain).or_default().balanced += counted,
            Rule::RefuseTcp | Rule::RefuseOther => chains.entry(chain).or_default().refused += counted,
            _ => {}
        }
    });
    match read {
        Ok(()) | Err(RequestError::Refused(Errno::ENOENT)) => Ok(chains),
        Err(error) => Err(error),
    }
}

/// The packets that a rule's `counter` expressions have counted.
fn counted(expressions: &[u8]) -> u64 {
    wire::attributes(expressions)
        .filter(|(_, expression)| wire::text(expression, nfta::EXPR_NAME) == Some("counter"))
        .filter_map(|(_, expression)| {
            wire::number64(wire::attribute(expression, nfta::EXPR_DATA)?, nfta::COUNTER_PACKETS)
        })
        .sum()
}

/// The elements of one set; an unreadable one makes the inner error. A set that is not there has none.
pub(super) fn read_elements(
    socket: &mut NetlinkSocket,
    set: SetName,
) -> Result<Result<BTreeMap<crate::model::SetKey, crate::model::SetValue>, String>, RequestError> {
    let mut raw = Vec::new();
    let request = |list: &mut wire::Attributes<'_>| {
        list.text(nfta::SET_ELEM_LIST_TABLE, TABLE);
        list.text(nfta::SET_ELEM_LIST_SET, &set.to_string());
    };
    let read = socket.dump(Kind::GetElements, request, |list| {
        let elements = wire::attribute(list, nfta::SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
        raw.extend(wire::attributes(elements).map(|(_, element)| RawElement::parse(element)));
    });
    match read {
        Ok(()) | Err(RequestError::Refused(Errno::ENOENT)) => {}
        Err(error) => return Err(error),
    }
    Ok(element::read(set, &raw)
        .map(|elements| elements.into_iter().collect())
        .map_err(|why| format!("the set {set}: {why}")))
}

/// The number of the tables' present generation; each commit makes a new one.
pub(super) fn generation(socket: &mut NetlinkSocket) -> Result<u32, RequestError> {
    let mut generation = 0;
    socket.get(Kind::GetGeneration, |_| {}, |answer| generation = wire::number(answer, nfta::GEN_ID).unwrap_or(0))?;
    Ok(generation)
}

/// Several reads belong together if the generation is the same before and after.
fn at_one_moment<T>(
    socket: &mut NetlinkSocket,
    mut read: impl FnMut(&mut NetlinkSocket) -> Result<T, RequestError>,
) -> Result<T, RequestError> {
    for _ in 0..READS_MAX {
        let before = generation(socket)?;
        match read(socket) {
            Ok(value) if generation(socket)? == before => return Ok(value),
            Ok(_) | Err(RequestError::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Err(RequestError::Interrupted)
}

fn read_ruleset(socket: &mut NetlinkSocket) -> Result<Result<Ruleset, String>, RequestError> {
    let mut sets = Ok(Vec::new());
    socket.dump(
        Kind::GetSet,
        |set| set.text(nfta::SET_TABLE, TABLE),
        |set| {
            // A nameless set belongs to a foreign rule and goes with it.
            let is_anonymous = wire::number(set, nfta::SET_FLAGS).unwrap_or(0) & FLAG_ANONYMOUS != 0;
            if wire::text(set, nfta::SET_TABLE) == Some(TABLE) && !is_anonymous {
                gather(&mut sets, check_set(set));
            }
        },
    )?;
    let mut chains = Ok(Vec::new());
    socket.dump(
        Kind::GetChain,
        |_| {},
        |chain| {
            if wire::text(chain, nfta::CHAIN_TABLE) == Some(TABLE) {
                gather(&mut chains, check_chain(chain));
            }
        },
    )?;
    let (sets, chains) = match (sets, chains) {
        (Ok(sets), Ok(chains)) => (sets, chains),
        (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
    };

    let mut ruleset = Ruleset::default();
    for set in sets {
        let elements = if set.is_dynamic() { Ok(BTreeMap::new()) } else { read_elements(socket, set)? };
        match elements {
            Ok(elements) => ruleset.sets.insert(set, elements),
            Err(why) => return Ok(Err(why)),
        };
    }
    let mut rules = read_rules(socket, None)?;
    for name in chains {
        let rules = rules.remove(&name.to_string()).unwrap_or_default();
        ruleset.chains.insert(name, Chain { rules: rules.into_iter().map(|(_, rule)| rule).collect() });
    }
    Ok(Ok(ruleset))
}

/// Adds to a list until the first error, which stays.
fn gather<T>(all: &mut Result<Vec<T>, String>, one: Result<T, String>) {
    match (&mut *all, one) {
        (Ok(list), Ok(item)) => list.push(item),
        (Ok(_), Err(why)) => *all = Err(why),
        (Err(_), _) => {}
    }
}

fn check_set(set: &[u8]) -> Result<SetName, String> {
    let name: SetName = name_of(set, nfta::SET_NAME)?;
    Declaration::of(name).check(set).map_err(|why| format!("the set {name}: {why}"))?;
    Ok(name)
}

fn check_chain(chain: &[u8]) -> Result<ChainName, String> {
    let name: ChainName = name_of(chain, nfta::CHAIN_NAME)?;
    let hook = wire::attribute(chain, nfta::CHAIN_HOOK);
    let found = hook.map(|hook| {
        (
            wire::text(chain, nfta::CHAIN_TYPE),
            wire::number(hook, nfta::HOOK_HOOKNUM),
            wire::number(hook, nfta::HOOK_PRIORITY).map(u32::cast_signed),
            wire::number(chain, nfta::CHAIN_POLICY),
        )
    });
    let wanted = name.hook().map(|hook| {
        (Some(hook.kind), Some(hook.number), Some(hook.priority), Some(wire::VERDICT_ACCEPT.cast_unsigned()))
    });
    if found == wanted {
        Ok(name)
    } else {
        Err(format!("the chain {name} is entered at another place or has another policy than weft's"))
    }
}

/// A name of ours. `07` parses as 7 too, but is another name.
fn name_of<T: std::str::FromStr<Err = String> + ToString>(attributes: &[u8], kind: u16) -> Result<T, String> {
    let text = wire::text(attributes, kind).unwrap_or_default();
    let name: T = text.parse()?;
    if name.to_string() == text { Ok(name) } else { Err(format!("{text:?} is not a name of weft's")) }
}
