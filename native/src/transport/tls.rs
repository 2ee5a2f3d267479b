//! TLS of a listener, on rustls with ring: certificates from files, mutual where there is an authority.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::files::FromFiles;

/// As peers name them to each other in the handshake (ALPN).
pub const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// PEM; the own certificate first.
    pub certificates: PathBuf,
    pub key: PathBuf,
    /// Who a client must be certified by; None: anybody may come.
    pub client_authorities: Option<PathBuf>,
    pub reload_interval: Duration,
}

/// Where the authorities change, sessions that began before cannot be taken up again: they are kept by the
/// configuration.
pub fn open(files: TlsFiles, allow_http1: bool) -> Result<FromFiles<ServerConfig>, String> {
    let mut paths = vec![files.certificates, files.key];
    paths.extend(files.client_authorities);
    FromFiles::open(paths.clone(), files.reload_interval, move |contents| {
        config(contents, allow_http1)
            .map_err(|error| format!("{} with {}: {error}", paths[0].display(), paths[1].display()))
    })
}

/// Of certificates, key and, if they are there, authorities of clients.
fn config(contents: &[Vec<u8>], allow_http1: bool) -> Result<ServerConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&contents[0])?;
    let key = PrivateKeyDer::from_pem_slice(&contents[1]).map_err(|error| format!("the key: {error}"))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match contents.get(2) {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(authorities)? {
                roots.add(certificate).map_err(|error| format!("an authority of clients: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .map_err(|error| format!("the authorities of clients: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    if allow_http1 {
        config.alpn_protocols.push(HTTP1.to_vec());
    }
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("a certificate: {error}"))?;
    if found.is_empty() {
        return Err("there is no certificate in the file".into());
    }
    Ok(found)
}
