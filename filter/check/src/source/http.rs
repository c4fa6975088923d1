//! GET over HTTP and HTTPS.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Asks, and remembers its connections.
#[derive(Debug)]
pub struct Http {
    plain: Pool<HttpConnector, Empty<Bytes>>,
    /// Made when it is first needed: a machine without certificates can still ask over HTTP.
    secure: OnceLock<Pool<HttpsConnector<HttpConnector>, Empty<Bytes>>>,
    token: Option<String>,
    patience: Duration,
}

/// The largest page that is read: a wrong address may answer with anything, without an end.
const LARGEST_PAGE: usize = 256 << 20;

impl Http {
    /// With a bearer token, if there is one, and so much patience for each answer.
    #[must_use]
    pub fn new(token: Option<String>, patience: Duration) -> Http {
        let plain = Pool::builder(TokioExecutor::new()).build_http();
        Http { plain, secure: OnceLock::new(), token, patience }
    }

    /// The text at an address.
    ///
    /// # Errors
    /// Nobody answers in time, or not with 200.
    pub async fn get(&self, url: &str) -> Result<String> {
        let asked = tokio::time::timeout(self.patience, self.ask(url)).await;
        asked.unwrap_or_else(|_| bail!("no answer within {} s", self.patience.as_secs_f64()))
    }

    async fn ask(&self, url: &str) -> Result<String> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is no address"))?;
        let secure = uri.scheme_str() == Some("https");
        let mut request = Request::get(uri);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Empty::new())?;
        let answer = if secure { self.secure()?.request(request).await } else { self.plain.request(request).await };
        text(answer.map_err(|why| anyhow::anyhow!(cause(&why)))?).await
    }

    fn secure(&self) -> Result<&Pool<HttpsConnector<HttpConnector>, Empty<Bytes>>> {
        if self.secure.get().is_none() {
            let roots = HttpsConnectorBuilder::new().with_native_roots().context("this machine has no certificates")?;
            let pool = Pool::builder(TokioExecutor::new()).build(roots.https_only().enable_http1().build());
            let _ = self.secure.set(pool);
        }
        self.secure.get().context("a connector that was just made")
    }
}

/// The innermost cause: what wraps it says only that connecting failed.
fn cause(why: &(dyn std::error::Error + 'static)) -> String {
    why.source().map_or_else(|| why.to_string(), cause)
}

/// The text of an answer of 200.
///
/// # Errors
/// It has another status, breaks off, or is too large.
pub async fn text(answer: Response<Incoming>) -> Result<String> {
    let status = answer.status();
    let body =
        Limited::new(answer.into_body(), LARGEST_PAGE).collect().await.map_err(|why| anyhow::anyhow!("{why}"))?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    ensure!(status == 200, "{status}{}", first_line(&text));
    Ok(text)
}

fn first_line(text: &str) -> String {
    match text.lines().next() {
        Some(line) if !line.is_empty() => format!(": {}", line.chars().take(200).collect::<String>()),
        _ => String::new(),
    }
}
