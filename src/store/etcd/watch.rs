//! etcd's service Watch over the embedded store.
//!
//! One task a stream hears the client and owns the stream's watches; one task a watch sends what its feed gives. All send
//! through one bounded queue, so that a client that reads slowly slows its own watches and nobody else. The tasks end
//! with the client's stream, with the store, or with the server.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    convert::{self, Before},
    messages::watch::{
        Event, WatchCancelRequest, WatchCreateRequest, WatchFilter, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_request::Request,
    },
    server::Face,
};
use crate::store::embedded::{
    Feed,
    request::{Commit, KvError, Span},
};

/// How many answers may wait for a slow client.
const QUEUE: usize = 16;

/// How often an idle watch that asked for it says where it stands: etcd's interval.
const PROGRESS_INTERVAL: Duration = Duration::from_mins(10);

type Answer = mpsc::Sender<Result<WatchResponse, Status>>;

pub(super) fn watch(face: Face, requests: Streaming<WatchRequest>) -> ReceiverStream<Result<WatchResponse, Status>> {
    let (answers, queue) = mpsc::channel(QUEUE);
    tokio::spawn(hear(face, requests, answers));
    ReceiverStream::new(queue)
}

/// A watch that runs.
struct Running {
    task: JoinHandle<()>,
    /// The last revision all of whose changes are in the queue.
    sent: Arc<AtomicU64>,
}

async fn hear(face: Face, mut requests: Streaming<WatchRequest>, answers: Answer) {
    let mut running: BTreeMap<i64, Running> = BTreeMap::new();
    let stopping = face.stopping();
    tokio::pin!(stopping);
    loop {
        let request = tokio::select! {
            message = requests.message() => message,
            () = &mut stopping => {
                // The client is gone if this fails, and hears it from the connection.
                let _ = answers.send(Err(convert::status(&KvError::Closed))).await;
                break;
            }
            () = answers.closed() => break,
        };
        let answer = match request {
            Ok(Some(WatchRequest { request: Some(request) })) => match request {
                Request::Create(create) => begin(&face, create, &answers, &mut running).await,
                Request::Cancel(WatchCancelRequest { watch_id }) => end(&face, watch_id, &mut running).await,
                Request::Progress(WatchProgressRequest {}) => Some(progress(&face, &running)),
            },
            Ok(Some(WatchRequest { request: None })) => None,
            Ok(None) | Err(_) => break,
        };
        if let Some(answer) = answer
            && answers.send(Ok(answer)).await.is_err()
        {
            break;
        }
    }
    for watch in running.into_values() {
        watch.task.abort();
    }
}

/// Begins a watch; the answer that it begins is in the queue before its first change.
async fn begin(
    face: &Face,
    create: WatchCreateRequest,
    answers: &Answer,
    running: &mut BTreeMap<i64, Running>,
) -> Option<WatchResponse> {
    let revision = face.embedded.revision();
    let start = u64::try_from(create.start_revision).ok().filter(|start| *start > 0).unwrap_or(revision + 1);
    let filters: Vec<WatchFilter> = create.filters().collect();
    let WatchCreateRequest { key, range_end, watch_id, progress_notify, prev_kv, .. } = create;
    if running.contains_key(&watch_id) && watch_id != 0 {
        return Some(WatchResponse {
            header: convert::header(revision),
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: "mvcc: duplicate watch ID provided on the WatchStream".to_owned(),
            ..WatchResponse::default()
        });
    }
    let watch_id = match watch_id {
        // Of that many and one more numbers, one at least is free.
        0 => (0..=i64::try_from(running.len()).unwrap_or(i64::MAX)).find(|id| !running.contains_key(id))?,
        chosen => chosen,
    };
    let header = convert::header(revision);
    let created = WatchResponse { header, watch_id, created: true, ..WatchResponse::default() };
    answers.send(Ok(created)).await.ok()?;
    let sent = Arc::new(AtomicU64::new(start - 1));
    let watch = Watcher {
        id: watch_id,
        // etcd's clients ask for all keys with an empty one.
        span: if key.is_empty() && range_end.is_empty() { Span::One(vec![0]) } else { convert::span(key, range_end) },
        filters,
        before: prev_kv.into(),
        progress: if progress_notify { Some(PROGRESS_INTERVAL) } else { None },
        sent: Arc::clone(&sent),
        face: face.clone(),
    };
    let task = tokio::spawn(watch.run(face.embedded.feed(start), answers.clone()));
    running.insert(watch_id, Running { task, sent });
    None
}

async fn end(face: &Face, watch_id: i64, running: &mut BTreeMap<i64, Running>) -> Option<WatchResponse> {
    let watch = running.remove(&watch_id)?;
    watch.task.abort();
    // Nothing of it may follow the answer that it has ended.
    let _ = watch.task.await;
    Some(WatchResponse {
        header: convert::header(face.embedded.revision()),
        watch_id,
        canceled: true,
        ..WatchResponse::default()
    })
}

/// The revision that all watches of the stream have reached.
fn progress(face: &Face, running: &BTreeMap<i64, Running>) -> WatchResponse {
    let sent = running.values().map(|watch| watch.sent.load(Ordering::Acquire));
    let reached = sent.fold(face.embedded.revision(), u64::min);
    WatchResponse { header: convert::header(reached), watch_id: -1, ..WatchResponse::default() }
}

/// What a watch's task needs.
struct Watcher {
    id: i64,
    span: Span,
    filters: Vec<WatchFilter>,
    before: Before,
    progress: Option<Duration>,
    sent: Arc<AtomicU64>,
    face: Face,
}

impl Watcher {
    async fn run(self, mut feed: Feed, answers: Answer) {
        loop {
            let idle = async {
                match self.progress {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            let found = tokio::select! {
                found = feed.next() => found,
                () = idle => {
                    let reached = self.face.embedded.revision().min(feed.position() - 1);
                    if answers.send(Ok(self.response(reached))).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let answer = match found {
                Ok(commits) => {
                    let events: Vec<Event> = commits.iter().flat_map(|commit| self.events(commit)).collect();
                    (!events.is_empty()).then(|| Ok(WatchResponse { events, ..self.response(feed.position() - 1) }))
                }
                Err(KvError::Compacted { oldest }) => Some(Ok(WatchResponse {
                    canceled: true,
                    compact_revision: oldest.cast_signed(),
                    ..self.response(self.face.embedded.revision())
                })),
                Err(error) => Some(Err(convert::status(&error))),
            };
            let ended =
                answer.as_ref().is_some_and(|answer| answer.as_ref().map_or(true, |response| response.canceled));
            if let Some(answer) = answer
                && answers.send(answer).await.is_err()
            {
                return;
            }
            if ended {
                return;
            }
            self.sent.store(feed.position() - 1, Ordering::Release);
        }
    }

    fn response(&self, revision: u64) -> WatchResponse {
        WatchResponse { header: convert::header(revision), watch_id: self.id, ..WatchResponse::default() }
    }

    fn events(&self, commit: &Commit) -> impl Iterator<Item = Event> {
        commit.changes.iter().filter(|change| self.span.contains(&change.key)).filter_map(|change| {
            let filter = match change.after {
                Some(_) => WatchFilter::NoPut,
                None => WatchFilter::NoDelete,
            };
            (!self.filters.contains(&filter)).then(|| convert::event(change, commit.revision, self.before))
        })
    }
}
