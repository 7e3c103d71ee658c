//! Whom the cluster lets in. Everybody who reads the store may read these.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::{Record, VERSION, parse_name};
use crate::model::{Fingerprint, JoinToken, Name};

#[derive(Serialize, Deserialize)]
pub(in super::super) struct TokenRecord {
    v: u32,
    hash: String,
    sealed: String,
}

impl From<&JoinToken> for TokenRecord {
    fn from(token: &JoinToken) -> Self {
        let JoinToken { hash, sealed } = token;
        Self { v: VERSION, hash: Fingerprint(*hash).to_string(), sealed: BASE64.encode(sealed) }
    }
}

impl Record for TokenRecord {
    type Model = JoinToken;

    const KIND: &'static str = "token";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<JoinToken, String> {
        let Self { v: _, hash, sealed } = self;
        let Fingerprint(hash) = hash.parse()?;
        let sealed =
            BASE64.decode(sealed.as_bytes()).map_err(|error| format!("its sealed part is damaged: {error}"))?;
        Ok(JoinToken { hash, sealed })
    }
}

#[derive(Serialize, Deserialize)]
pub(in super::super) struct AdmittedRecord {
    v: u32,
    name: String,
}

impl From<&Name> for AdmittedRecord {
    fn from(name: &Name) -> Self {
        Self { v: VERSION, name: name.to_string() }
    }
}

impl Record for AdmittedRecord {
    type Model = Name;

    const KIND: &'static str = "admission";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Name, String> {
        parse_name(&self.name)
    }
}
