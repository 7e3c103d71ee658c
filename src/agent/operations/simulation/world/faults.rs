//! What goes wrong.

use std::sync::{Arc, PoisonError};

use super::{NAMESPACES, Owner, Wire, World};
use crate::{kernel::Faults, model::HostState, plan::plan};

impl World {
    pub(super) fn disturb_store(&mut self, index: Owner) {
        let all = self.dice.strikes(200);
        let chosen = self.nodes.iter().enumerate().filter(|(each, _)| all || *each == index);
        let wires: Vec<Arc<Wire>> = chosen.map(|(_, node)| Arc::clone(&node.wire)).collect();
        let whose = if all { "all" } else { self.nodes[index].name.as_str() };
        let what = self.dice.below(5);
        self.ledger.log(format!("the store of {whose}: {}", ["away", "shaky", "back", "back", "back"][what]));
        for wire in wires {
            match what {
                0 => wire.cut(),
                1 => wire.lose(60),
                _ => wire.heal(),
            }
        }
    }

    pub(super) fn disturb_kernel(&mut self, index: Owner) {
        let kernel = &self.nodes[index].host.kernel;
        let what = self.dice.below(4);
        self.ledger.log(format!("the kernel of {}: fault {what}", self.nodes[index].name));
        match what {
            0 => {
                let dice = self.dice.clone();
                kernel.set_faults(Faults::When(Box::new(move |_| dice.strikes(100))));
            }
            1 => kernel.set_faults(Faults::After(self.dice.below(6))),
            2 => kernel.fail_observations(1 + self.dice.below(3)),
            _ => kernel.set_faults(Faults::None),
        }
    }

    /// Replicas fail their probes, or a way to peers its echoes.
    pub(super) fn disturb_probes(&mut self, index: Owner) {
        let host = &self.nodes[index].host;
        let (sick, lost) = (self.dice.pick([0, 0, 300, 1000]).unwrap(), self.dice.pick([0, 0, 300, 1000]).unwrap());
        self.ledger.log(format!("{}: of a thousand probes {sick} fail, of the echoes {lost}", self.nodes[index].name));
        host.sicken(sick);
        host.isolate(lost);
    }

    /// Somebody deletes rows of ours.
    pub(super) fn damage(&mut self, index: Owner) {
        let node = &self.nodes[index];
        self.ledger.log(format!("somebody damages the kernel of {}", node.name));
        *node.damages.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let kernel = &node.host.kernel;
        let state = kernel.state();
        let steps = plan(&HostState { sysctls: state.sysctls.clone(), ..Default::default() }, &state);
        let all = self.dice.strikes(200);
        for step in steps.iter().filter(|_| all || self.dice.strikes(150)) {
            // Some of them cannot be done alone; then there is less damage.
            let _ = kernel.apply_now(step);
        }
        if self.dice.strikes(500) {
            node.host.changed.notify_one();
        }
    }

    pub(super) fn end_namespace(&mut self, index: Owner) {
        let path = format!("/run/netns/{}", self.dice.below(NAMESPACES));
        self.ledger.log(format!("{path} ends on {}", self.nodes[index].name));
        let mut told = self.ledger.told();
        let gone = told.live.extract_if(.., |_, live| live.owner == index && live.path == path);
        let gone: Vec<String> = gone.map(|(_, live)| live.name).collect();
        told.doubtful.extend(gone);
        drop(told);
        self.nodes[index].host.end_namespace(&path);
    }

    /// The store forgets all leases: it was away for longer than they last.
    pub(super) fn end_leases(&mut self) {
        self.ledger.log("all leases end");
        self.store.advance(60);
    }
}
