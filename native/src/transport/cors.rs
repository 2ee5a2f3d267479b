//! What browsers ask before they send spans to another origin than their page's (Fetch standard, CORS).

use http::{header, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

use super::reply::{self, Reply};

/// How long a browser may remember the answer: as long as any of them does.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const ALWAYS_ALLOWED: &str = "content-type, content-encoding";

#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// As browsers write them; one `*` stands for anything.
    pub origins: Vec<String>,
    /// Beside those that OTLP needs.
    pub headers: Vec<String>,
}

impl Cors {
    /// The origin of the request, if it may send.
    pub fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        self.origins.iter().any(|pattern| fits(pattern, text)).then(|| origin.clone())
    }

    /// The answer to what a browser asks beforehand; None: that is not what the request is.
    pub fn preflight<B>(&self, request: &Request<B>) -> Option<Response<Reply>> {
        if request.method() != Method::OPTIONS
            || !request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let mut response = reply::bare(StatusCode::NO_CONTENT);
        let headers = response.headers_mut();
        vary(headers);
        // A browser takes an answer that allows nothing as a no.
        if let Some(origin) = self.allowed(request.headers()) {
            let names = self.headers.iter().fold(ALWAYS_ALLOWED.to_owned(), |all, name| all + ", " + name);
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            if let Ok(names) = HeaderValue::from_str(&names) {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
            }
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
        Some(response)
    }

    /// Lets the page read the answer.
    pub fn expose(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        vary(headers);
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            let exposed: HeaderName = header::RETRY_AFTER;
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.into());
        }
    }
}

fn vary(headers: &mut HeaderMap) {
    headers.insert(header::VARY, header::ORIGIN.into());
}

fn fits(pattern: &str, origin: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(origin),
        Some((begin, end)) => {
            origin.len() >= begin.len() + end.len() && origin.starts_with(begin) && origin.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(fits("*", "https://a"));
        assert!(fits("https://*.example.org", "https://a.b.example.org"));
        assert!(!fits("https://*.example.org", "https://example.org"));
        assert!(!fits("https://*.example.org", "http://a.example.org"));
        assert!(fits("https://a:1", "HTTPS://a:1"));
        assert!(!fits("https://a", "https://a.evil"));
    }
}
