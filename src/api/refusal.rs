use std::fmt;

/// Why an operation was not done, written for the person who asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What sort of failure it is.
    pub kind: RefusalKind,
    /// `what failed: why`, one line, without a full stop.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

/// The sorts of failure, each with an HTTP status of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The request can never succeed as it stands: a bad name, a prefix that overlaps another (400).
    Invalid,
    /// The thing named is not there (404).
    NotFound,
    /// It contradicts what is there: exists with other words, in use, no room left (409).
    Conflict,
    /// It cannot be done now and may work later: the store or the agent is away (503).
    Unavailable,
    /// It failed within the agent or the kernel (500).
    Internal,
}

impl RefusalKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Invalid, Self::NotFound, Self::Conflict, Self::Unavailable, Self::Internal];

    /// The HTTP status that stands for it (RFC 9110, 15).
    pub fn http_status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// The kind that an HTTP status stands for; any other client error is [`Self::Invalid`], any other status
    /// [`Self::Internal`].
    pub fn from_http_status(status: u16) -> Self {
        match status {
            404 => Self::NotFound,
            409 => Self::Conflict,
            503 => Self::Unavailable,
            400..=499 => Self::Invalid,
            _ => Self::Internal,
        }
    }
}

impl Refusal {
    /// The request can never succeed as it stands.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(RefusalKind::Invalid, message)
    }

    /// The thing named is not there.
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::new(RefusalKind::NotFound, message)
    }

    /// It contradicts what is there.
    pub fn conflict(message: impl fmt::Display) -> Self {
        Self::new(RefusalKind::Conflict, message)
    }

    /// It cannot be done now and may work later.
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(RefusalKind::Unavailable, message)
    }

    /// It failed within the agent or the kernel.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(RefusalKind::Internal, message)
    }

    /// The same with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl fmt::Display) -> Self {
        Self { hint: Some(hint.to_string()), ..self }
    }

    fn new(kind: RefusalKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hint: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_status_of_its_own() {
        for kind in RefusalKind::ALL {
            assert_eq!(RefusalKind::from_http_status(kind.http_status()), kind);
        }
    }
}
