//! The page over HTTP, and what it is sent over a WebSocket: the state of all series as JSON, slices as binary messages
//! (`slice`). All answers forbid the browser to load anything from elsewhere.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::{Instant, interval_at, sleep_until, timeout};

use super::access::Access;
use super::connections::Limited;
use super::hub::Hub;
use super::viewers::{Entry, Pushed};

/// Files of the page: path, type, contents.
const FILES: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
    ("/link.js", "text/javascript; charset=utf-8", include_str!("page/link.js")),
    ("/picture.js", "text/javascript; charset=utf-8", include_str!("page/picture.js")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];
/// Headers of every answer.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];
/// Least time between two states for a page.
const STATE_EVERY: Duration = Duration::from_millis(200);
/// Time between two pings, by which a lost connection is noticed.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A page that takes nothing for this long is disconnected.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Longest message of a page, bytes.
const LONGEST_MESSAGE: usize = 4096;

/// Answers requests until it is dropped.
///
/// # Errors
/// A listener that cannot say its address.
pub async fn answer(listener: TcpListener, host: &str, hub: Arc<Hub>) -> io::Result<()> {
    let access = Access::new(host, listener.local_addr()?);
    axum::serve(Limited::new(listener), router(access, hub)).await
}

/// The address of the page as a user types it.
pub fn url(host: &str, address: SocketAddr) -> String {
    match host.contains(':') {
        true => format!("http://[{host}]:{}/", address.port()),
        false => format!("http://{host}:{}/", address.port()),
    }
}

fn router(access: Access, hub: Arc<Hub>) -> Router {
    let mut router = Router::new()
        .route("/series", get(|State(hub): State<Arc<Hub>>| async move { json(Some(&hub.series())) }))
        .route("/series/{id}", get(slices))
        .route("/series/{id}/slices/{index}", get(slice))
        .route("/latency", get(|State(hub): State<Arc<Hub>>| async move { json(Some(&hub.latency())) }))
        .route("/ws", get(connect));
    for (path, kind, contents) in FILES {
        router = router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], contents) }));
    }
    router.with_state(hub).layer(from_fn_with_state(Arc::new(access), guard)).layer(from_fn(add_headers))
}

async fn guard(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.allows(request.headers()) {
        true => next.run(request).await,
        false => (StatusCode::FORBIDDEN, "The page is not available by this name or from another site.\n")
            .into_response(),
    }
}

async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers =
        HEADERS.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    response.headers_mut().extend(headers);
    response
}

fn json(value: Option<&impl Serialize>) -> Response {
    match value.map(serde_json::to_string) {
        Some(Ok(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Some(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn slices(State(hub): State<Arc<Hub>>, Path(id): Path<String>) -> Response {
    json(hub.slices(&id).as_ref())
}

async fn slice(State(hub): State<Arc<Hub>>, Path((id, index)): Path<(String, i64)>) -> Response {
    match hub.slice(&id, index).and_then(|slice| slice.encode()) {
        Some(message) => ([(header::CONTENT_TYPE, "application/octet-stream")], message).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn connect(State(hub): State<Arc<Hub>>, upgrade: WebSocketUpgrade) -> Response {
    let Some(entry) = hub.viewers.enter() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "Too many pages are open.\n").into_response();
    };
    upgrade.max_message_size(LONGEST_MESSAGE).on_upgrade(move |socket| watch(socket, entry, hub))
}

/// Sends a page what is new, until it leaves or takes nothing any more.
async fn watch(mut socket: WebSocket, entry: Entry, hub: Arc<Hub>) {
    let mut signal = hub.signal();
    let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    let mut next_state = Instant::now();
    loop {
        let sent = tokio::select! {
            pushed = entry.queue.next() => push(&mut socket, &hub, pushed).await,
            changed = async { sleep_until(next_state).await; signal.changed().await } => {
                if changed.is_err() || signal.borrow_and_update().ended {
                    let reason = CloseFrame { code: close_code::AWAY, reason: "the run has ended".into() };
                    send(&mut socket, Message::Close(Some(reason))).await;
                    return;
                }
                next_state = Instant::now() + STATE_EVERY;
                match serde_json::to_string(&hub.state()) {
                    Ok(state) => send(&mut socket, Message::text(state)).await,
                    Err(_) => false,
                }
            }
            _ = pings.tick() => send(&mut socket, Message::Ping(Bytes::new())).await,
            // Pages say nothing yet.
            message = socket.recv() => matches!(message, Some(Ok(message)) if !matches!(message, Message::Close(_))),
        };
        if !sent {
            return;
        }
    }
}

async fn push(socket: &mut WebSocket, hub: &Hub, pushed: Pushed) -> bool {
    let sent = send(socket, Message::Binary(pushed.message)).await;
    if let Some(arrived) = pushed.arrived.filter(|_| sent) {
        hub.on_sent(arrived);
    }
    sent
}

async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(timeout(STALLED_AFTER, socket.send(message)).await, Ok(Ok(())))
}
