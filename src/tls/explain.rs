//! What a failed handshake means to whoever wrote the URL.

use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error};

/// What was wrong, and what to do about it; nothing if `error` is not one of TLS. `host` is whom we wanted, `shows` whether we had a
/// certificate to show.
pub(super) fn explain(error: &io::Error, host: &str, shows: bool) -> Option<String> {
    let error = error.get_ref()?;
    let error = error.downcast_ref::<Error>().or_else(|| error.source()?.downcast_ref::<Error>())?;
    Some(match error {
        Error::InvalidCertificate(reason) => certificate(reason, host),
        Error::AlertReceived(alert) => refusal(*alert, shows),
        Error::InvalidMessage(_) => format!("it does not speak TLS: {error}"),
        _ => error.to_string(),
    })
}

fn certificate(reason: &CertificateError, host: &str) -> String {
    match reason {
        CertificateError::UnknownIssuer => {
            "its certificate is signed by an unknown authority: name the file with the right one as ca=PATH".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired: {reason}")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet; do the clocks agree? {reason}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is not for {host}: say server-name=NAME with a name that is in it ({reason})")
        }
        _ => format!("its certificate is not accepted: {reason}"),
    }
}

fn refusal(alert: AlertDescription, shows: bool) -> String {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        UnknownCA, UnsupportedCertificate,
    };
    match alert {
        BadCertificate | CertificateRequired if !shows => {
            format!("it wants a certificate of its clients: say cert=PATH and key=PATH ({alert:?})")
        }
        AccessDenied
        | BadCertificate
        | CertificateExpired
        | CertificateRequired
        | CertificateRevoked
        | CertificateUnknown
        | UnknownCA
        | UnsupportedCertificate => format!("it does not accept the certificate that we show: {alert:?}"),
        _ => format!("it broke off the handshake: {alert:?}"),
    }
}
