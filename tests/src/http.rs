//! HTTP as a probe or a scraper speaks it.

use std::time::Duration;

/// An answer of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// `GET` of a path on a port of this machine; the error says why there is no answer.
pub async fn get(port: u16, path: &str) -> Result<Answer, String> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let request = move || {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .new_agent();
        let mut response = agent.get(&url).call().map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        Ok(Answer { status, body })
    };
    tokio::task::spawn_blocking(request).await.map_err(|error| error.to_string())?
}
