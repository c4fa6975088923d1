//! A certificate authority for the edge: it signs what the gateway shows, and clients of the tests trust it alone.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use circuit_breaker_integration::client::{self, Reply};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// An authority that nobody but its own clients knows.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    connector: TlsConnector,
}

impl Authority {
    /// With a key of its own.
    ///
    /// # Errors
    /// The key or the certificate cannot be made.
    pub fn found() -> Result<Authority> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "the lab's authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = parameters.self_signed(&key)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Authority { issuer: Issuer::new(parameters, key), connector: TlsConnector::from(Arc::new(config)) })
    }

    /// The secret that a Gateway's `credentialName` names: a certificate for `host`, and its key.
    ///
    /// # Errors
    /// The host is no DNS name.
    pub fn secret(&self, namespace: &str, name: &str, host: &str) -> Result<Value> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([host.to_owned()])?.signed_by(&key, &self.issuer)?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
        }))
    }

    /// GET over TLS, by a client that trusts this authority and asks for `host` by SNI.
    ///
    /// # Errors
    /// The certificate is not this authority's or not the host's, or there is no answer.
    pub async fn get(&self, to: (Ipv4Addr, u16), host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from(host.to_owned()).context("no name of a server")?;
        let stream = self.connector.connect(name, stream).await?;
        client::request_over(stream, "GET", path, &[&[("host", host)], headers].concat()).await
    }
}
