//! A watch that outlives the endpoint that it began at.

use std::{sync::Arc, time::Duration};

use futures::stream;
use tokio::{sync::mpsc, time::Instant};
use tonic::Streaming;

use super::{
    failure::cancelled,
    link::{Link, Opened},
    store::{changes, wire_span},
};
use crate::store::{
    Changes, Revision, StoreError, Watch,
    etcd::messages::watch::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request},
};

/// How often a watch is begun at most, for members that take it and end it at once.
const RESUME_AFTER: Duration = Duration::from_secs(1);

/// How soon a watch goes along with the requests to another endpoint. A cluster that is slow as a whole makes requests change to and
/// fro.
const FOLLOW_AFTER: Duration = Duration::from_secs(5);

/// What is watched, and how far it was told.
struct Watched {
    link: Arc<Link>,
    prefix: String,
    after: Revision,
}

/// A watch at one endpoint.
struct Running {
    at: usize,
    since: Instant,
    /// It lives as long as this does, though nothing more is sent.
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

pub(super) async fn watch(link: Arc<Link>, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
    let watched = Watched { link, prefix: prefix.to_owned(), after };
    let running = watched.begin().await?;
    Ok(Box::pin(stream::unfold(Some((watched, running)), |state| async {
        let (mut watched, mut running) = state?;
        match watched.next(&mut running).await {
            Ok(changes) => Some((Ok(changes), Some((watched, running)))),
            Err(error) => Some((Err(error), None)),
        }
    })))
}

impl Watched {
    async fn begin(&self) -> Result<Running, StoreError> {
        let (key, range_end) = wire_span(&self.prefix);
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: self.after.0.cast_signed() + 1,
            ..WatchCreateRequest::default()
        };
        let first = WatchRequest { request: Some(watch_request::Request::Create(create)) };
        let opened = self.link.stream("/etcdserverpb.Watch/Watch", first, cancelled).await;
        let Opened { at, requests, answers, first } = opened.map_err(|error| self.name_revision(error))?;
        if !first.created {
            return Err(self.link.names.unavailable("it does not begin the watch"));
        }
        Ok(Running { at, since: Instant::now(), _requests: requests, answers })
    }

    /// The next changes, from another endpoint if this one fails or falls silent. Ends with an error that no other endpoint helps with.
    async fn next(&mut self, running: &mut Running) -> Result<Changes, StoreError> {
        loop {
            let (link, at, follow_at) = (&self.link, running.at, running.since + FOLLOW_AFTER);
            let left = async {
                tokio::time::sleep_until(follow_at).await;
                link.moved_from(at).await;
            };
            let answer = tokio::select! {
                answer = running.answers.message() => Some(answer),
                () = left => None,
            };
            let Some(answer) = answer else {
                *running = self.begin().await?;
                continue;
            };
            let failure = match answer {
                Ok(Some(response)) => match cancelled(&response) {
                    Some(status) => self.link.names.explain(&status),
                    None => match changes(response)? {
                        Some(changes) => {
                            self.after = changes.revision;
                            return Ok(changes);
                        }
                        // A word about where the watch stands; there is nothing to tell.
                        None => continue,
                    },
                },
                Ok(None) => self.link.names.unavailable("it ended the stream"),
                Err(status) => self.link.names.explain(&status),
            };
            match failure {
                StoreError::Unavailable { .. } => {
                    self.link.move_on(running.at);
                    tokio::time::sleep_until(running.since + RESUME_AFTER).await;
                    *running = self.begin().await?;
                }
                failure => return Err(self.name_revision(failure)),
            }
        }
    }

    /// etcd's error does not say which revision is forgotten; the request does.
    fn name_revision(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Compacted(_) => StoreError::Compacted(self.after),
            error => error,
        }
    }
}
