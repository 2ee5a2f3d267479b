//! Pages for people and for what watches the program: made by Python.

use http::{header, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::callbacks::NoAnswer;
use super::connection::Peer;
use super::listener::{Pages, Service};
use super::reply::{self, Reply};

const PLAIN: &str = "text/plain; charset=utf-8";

pub async fn answer(
    request: Request<Incoming>,
    service: &Service,
    pages: &std::sync::Arc<Pages>,
    peer: &Peer,
) -> Response<Reply> {
    peer.shared.counters.page_requests.add(1);
    if !service.tokens.admit(request.headers()) {
        let mut response = reply::content(StatusCode::UNAUTHORIZED, PLAIN, "a bearer token is wanted\n");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    // What is said of a page is what would be said of it with its content.
    let is_head = request.method() == Method::HEAD;
    let method = if is_head { Method::GET } else { request.method().clone() };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    drop(request);
    let pages = pages.clone();
    let mut response = match peer.shared.ask(move || pages(method.as_str(), &path)).await {
        Ok((code, kind, content)) => match StatusCode::from_u16(code) {
            Ok(code) => reply::content(code, &kind, content),
            Err(_) => failed(),
        },
        Err(NoAnswer::Failed) => failed(),
        Err(NoAnswer::Busy) => {
            reply::content(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "too many ask at once\n")
        }
        Err(NoAnswer::Late) => reply::content(StatusCode::GATEWAY_TIMEOUT, PLAIN, "no answer in time\n"),
    };
    if is_head {
        if let Reply::Whole(content) = response.body() {
            let length = HeaderValue::from(content.len());
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
        }
        *response.body_mut() = Reply::Empty;
    }
    response
}

fn failed() -> Response<Reply> {
    reply::content(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the page could not be made\n")
}
