//! Pages of `/stats/prometheus`, by file or by address.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use super::http::Http;
use super::{AT_ONCE, Progress, now};
use crate::fleet::Round;
use crate::look::Look;

/// The pages that are asked for.
#[derive(Debug)]
pub struct Pages {
    places: Vec<String>,
    http: Http,
}

impl Pages {
    /// Of these files and addresses.
    #[must_use]
    pub fn new(places: Vec<String>, patience: Duration) -> Pages {
        Pages { places, http: Http::new(None, patience) }
    }

    /// Whether they can say another thing later: files do not.
    #[must_use]
    pub fn change(&self) -> bool {
        self.places.iter().any(|place| is_address(place))
    }

    /// What all of them say now.
    pub async fn round(&self, quiet: bool) -> Round {
        let (at, progress) = (now(), Progress::of(self.places.len(), quiet));
        let asked = stream::iter(&self.places).map(|place| async {
            let page = self.page(place).await.map(|page| Look::read(&page)).map_err(|why| format!("{why:#}"));
            progress.one_more();
            (place.clone(), page)
        });
        let answers: BTreeMap<_, _> = asked.buffer_unordered(AT_ONCE).collect().await;
        Round { at, proxies: answers.into_iter().collect() }
    }

    async fn page(&self, place: &str) -> anyhow::Result<String> {
        if is_address(place) { self.http.get(place).await } else { Ok(tokio::fs::read_to_string(place).await?) }
    }
}

fn is_address(place: &str) -> bool {
    place.starts_with("http://") || place.starts_with("https://")
}
