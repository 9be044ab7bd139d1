//! The page over real sockets, with a WebSocket client of other authors.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self_prompt_sam::view::{Hub, answer};
use serde_json::Value;
use tokio::runtime::Runtime;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use super::{frame, mask};

const SERIES: &str = "0123456789abcdef";
const LIMIT: Duration = Duration::from_secs(60);

struct Page {
    hub: Arc<Hub>,
    address: SocketAddr,
    _network: Runtime,
}

impl Page {
    fn open() -> Self {
        let network = Runtime::new().unwrap();
        let hub = Arc::new(Hub::new(["background", "left_ventricle"].map(String::from).to_vec()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let served = hub.clone();
        network.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            answer(listener, "127.0.0.1", served).await.unwrap();
        });
        Self { hub, address, _network: network }
    }

    /// Head and body of the answer to a request with these headers.
    fn get(&self, path: &str, headers: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        (String::from_utf8_lossy(&answer[..end]).to_lowercase(), answer[end + 4..].to_vec())
    }

    fn here(&self, path: &str) -> (String, Vec<u8>) {
        self.get(path, &format!("host: {}\r\n", self.address))
    }

    fn json(&self, path: &str) -> Value {
        let (head, body) = self.here(path);
        assert!(head.starts_with("http/1.1 200") && head.contains("application/json"), "{head}");
        serde_json::from_slice(&body).unwrap()
    }

    fn connect(&self) -> Result<WebSocket<TcpStream>, String> {
        let mut request = format!("ws://{}/ws", self.address).into_client_request().unwrap();
        request.headers_mut().insert("origin", format!("http://{}", self.address).parse().unwrap());
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        tungstenite::client(request, stream).map(|(socket, _)| socket).map_err(|error| error.to_string())
    }

    fn wait_for_viewers(&self, count: usize) {
        let start = Instant::now();
        while self.hub.viewers.count() != count {
            assert!(start.elapsed() < LIMIT, "{} viewers", self.hub.viewers.count());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Header and layers of a slice.
fn decode(message: &[u8]) -> (Value, &[u8]) {
    let length = u32::from_le_bytes(message[..4].try_into().unwrap()) as usize;
    (serde_json::from_slice(&message[4..4 + length]).unwrap(), &message[4 + length..])
}

/// The next slice that a page gets.
fn next_slice(socket: &mut WebSocket<TcpStream>) -> (Value, Vec<u8>) {
    loop {
        if let Message::Binary(message) = socket.read().unwrap() {
            let (header, layers) = decode(&message);
            return (header, layers.to_vec());
        }
    }
}

#[test]
fn only_this_page_under_the_names_of_this_machine_is_answered() {
    let page = Page::open();
    let port = page.address.port();
    for path in ["/", "/page.js", "/series", "/latency", "/series/x", "/series/x/slices/0", "/ws", "/none"] {
        let foreign = [
            "host: evil.example\r\n".to_owned(),
            format!("host: evil.example:{port}\r\n"),
            format!("host: localhost:{port}\r\norigin: http://evil.example\r\n"),
            format!("host: localhost:{port}\r\norigin: null\r\n"),
            format!("host: localhost:{port}\r\norigin: http://localhost:1\r\n"),
        ];
        for headers in foreign {
            let (head, _) = page.get(path, &headers);
            assert!(head.starts_with("http/1.1 403"), "{path}: {headers}: {head}");
        }
    }
    let own = format!("host: localhost:{port}\r\norigin: http://localhost:{port}\r\n");
    assert!(page.get("/", &own).0.starts_with("http/1.1 200"));
    assert!(page.here("/none").0.starts_with("http/1.1 404"));
    assert!(page.here("/ws").0.starts_with("http/1.1 4"), "no upgrade");
}

#[test]
fn every_answer_forbids_to_load_anything_from_elsewhere() {
    let page = Page::open();
    let files = ["/", "/page.js", "/link.js", "/picture.js", "/page.css", "/icon.svg"];
    for path in files.into_iter().chain(["/series", "/none"]) {
        let (head, body) = page.here(path);
        assert!(head.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{head}");
        assert!(head.contains("frame-ancestors 'none'") && head.contains("x-content-type-options: nosniff"));
        let text = String::from_utf8_lossy(&body);
        let without_names = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!without_names.contains("://"), "{path} names another place");
        assert!(path != "/" || !text.contains("style=") && !text.contains("<style"), "inline styles");
    }
}

#[test]
fn slices_arrive_as_they_were_sent_and_can_be_asked_for_again() {
    let page = Page::open();
    let mut socket = page.connect().unwrap();
    page.wait_for_viewers(1);
    let pixels: Vec<f32> = (0..6).map(|value| value as f32 * 10.0).collect();
    page.hub.on_frame(frame(SERIES, 0, 3, [2, 3]), &pixels).unwrap();
    let (header, layers) = next_slice(&mut socket);
    assert_eq!(header["series"], SERIES);
    assert_eq!((&header["index"], &header["mask"], layers.len()), (&3.into(), &"none".into(), 6));
    assert!(layers.is_sorted() && layers[0] == 0 && layers[5] == 255, "{layers:?}");

    let labels = vec![0, 1, 2, 0, 0, 1];
    page.hub.on_mask(mask(SERIES, 0, 3, [2, 3], true), labels.clone()).unwrap();
    let (header, layers) = next_slice(&mut socket);
    assert_eq!(header["mask"], "provisional");
    assert_eq!(header["layers"], serde_json::json!(["image", "mask"]));
    assert_eq!(header["placement"]["location"], -7.5);
    assert_eq!(&layers[6..], labels);

    let (head, body) = page.here(&format!("/series/{SERIES}/slices/3"));
    assert!(head.contains("application/octet-stream"));
    assert_eq!(decode(&body), (header, &*layers));
    assert!(page.here(&format!("/series/{SERIES}/slices/4")).0.starts_with("http/1.1 404"));
    let series = page.json("/series");
    assert_eq!((&series[0]["images"], &series[0]["provisional"]), (&1.into(), &1.into()));
    assert_eq!(page.json(&format!("/series/{SERIES}"))[0]["mask"], "provisional");
    assert_eq!(page.json("/latency")["page_secs"]["count"], 1);
}

#[test]
fn a_page_hears_of_classes_and_of_the_end() {
    let page = Page::open();
    let mut socket = page.connect().unwrap();
    let Message::Text(state) = socket.read().unwrap() else { panic!("the state comes first") };
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["classes"][1]["name"], "left_ventricle");
    assert_eq!(state["classes"][0]["colour"], Value::Null);
    page.hub.on_mask(mask(SERIES, 0, 0, [1, 1], false), vec![2]).unwrap();
    let named = loop {
        if let Message::Text(state) = socket.read().unwrap() {
            break serde_json::from_str::<Value>(&state).unwrap()["classes"].clone();
        }
    };
    assert_eq!(named[2]["name"], "class 2", "the model has two classes, the mask three");
    page.hub.end();
    let reason = loop {
        if let Message::Close(frame) = socket.read().unwrap() {
            break frame.unwrap().reason.to_string();
        }
    };
    assert_eq!(reason, "the run has ended");
    page.wait_for_viewers(0);
}

#[test]
fn a_stalled_page_costs_nothing_and_the_others_get_what_is_newest() {
    let page = Page::open();
    let _stalled = page.connect().unwrap(); // never reads
    let mut watching = page.connect().unwrap();
    page.wait_for_viewers(2);
    let shape = [1024, 1024];
    let pixels = vec![1.0; 1024 * 1024];
    for index in 0..40 {
        page.hub.on_frame(frame(SERIES, 0, index, shape), &pixels).unwrap();
        page.hub.on_mask(mask(SERIES, 0, index, shape, true), vec![1; 1024 * 1024]).unwrap();
        // 80 MB in all: more than the system's buffers hold for the page that does not read.
        while next_slice(&mut watching).0["index"] != index {}
    }
    assert_eq!(page.hub.viewers.count(), 2);
}

#[test]
fn more_pages_than_there_are_places_are_told_so() {
    let page = Page::open();
    let sockets: Vec<_> = (0..64).map(|_| page.connect().unwrap()).collect();
    page.wait_for_viewers(64);
    assert!(page.connect().unwrap_err().contains("503"));
    drop(sockets);
    page.wait_for_viewers(0);
    page.connect().unwrap();
}
