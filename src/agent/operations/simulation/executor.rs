use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::future::BoxFuture;

use super::dice::Dice;

/// Whose task it is: the agent on the host of that number.
pub(super) type Owner = usize;

/// Runs tasks one step at a time, which of them by the dice: every interleaving can happen, and happens again with the
/// same seed. A crash is the end of all tasks of an owner, wherever they are.
#[derive(Default)]
pub(super) struct Executor {
    tasks: BTreeMap<u64, Task>,
    next: u64,
}

struct Task {
    owner: Owner,
    /// Operations end; the tasks of a membership do not.
    operation: Option<String>,
    future: BoxFuture<'static, ()>,
    ready: Arc<Ready>,
}

struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Executor {
    pub(super) fn spawn(&mut self, owner: Owner, operation: Option<String>, future: BoxFuture<'static, ()>) {
        self.next += 1;
        self.tasks.insert(self.next, Task { owner, operation, future, ready: Arc::new(Ready(AtomicBool::new(true))) });
    }

    /// Lets one of the tasks that can go on do so until its next step; `false` if none can.
    pub(super) fn step(&mut self, dice: &Dice) -> bool {
        let ready = self.tasks.iter().filter(|(_, task)| task.ready.0.load(Ordering::Acquire)).map(|(id, _)| *id);
        let Some(id) = dice.pick(ready) else { return false };
        let task = self.tasks.get_mut(&id).unwrap();
        task.ready.0.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(&task.ready));
        if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            self.tasks.remove(&id);
        }
        true
    }

    /// Ends all tasks of an owner at once; gives the operations that were under way.
    pub(super) fn kill(&mut self, owner: Owner) -> Vec<String> {
        let dead = self.tasks.extract_if(.., |_, task| task.owner == owner);
        dead.filter_map(|(_, task)| task.operation).collect()
    }

    /// Operations that have not ended.
    pub(super) fn operations(&self) -> impl Iterator<Item = &str> {
        self.tasks.values().filter_map(|task| task.operation.as_deref())
    }
}

/// Lets the others go first: what comes after is a step of its own.
pub(super) async fn step() {
    let mut first = true;
    poll_fn(|context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}
