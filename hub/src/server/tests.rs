//! Connections, as clients have them.

use axum::Extension;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

/// Of everything that is awaited here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and how to end it.
struct Site {
    address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

impl Site {
    async fn start(router: Router, behind_proxy: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = Server { router, tls: None, behind_proxy };
        let served = tokio::spawn(server.serve(listener, shutdown.clone()));
        Self { address, shutdown, served }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Asks for `/` and returns everything until the connection ends.
    async fn ask(&self, headers: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("an end").unwrap();
    }
}

/// What is left of the server holds this.
fn held(router: Router) -> (Router, Arc<()>) {
    let held = Arc::new(());
    (router.layer(Extension(Arc::clone(&held))), held)
}

#[tokio::test]
async fn a_page_that_listens_holds_up_no_end_and_nothing_is_left_of_it() {
    let news = async |Extension(Closing(closing)): Extension<Closing>| {
        let told = stream::once(async { Ok::<_, Infallible>(Bytes::from_static(b"news")) });
        let end = stream::once(async move {
            closing.cancelled().await;
            Ok(Bytes::new())
        });
        Body::from_stream(futures_util::StreamExt::chain(told, end))
    };
    let (router, held) = held(Router::new().route("/", get(news)));
    let site = Site::start(router, false).await;
    let mut page = site.connect().await;
    page.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"news\r\n") {
        assert_ne!(page.read_buf(&mut answer).await.unwrap(), 0);
    }

    site.stop().await;

    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_cut_off_and_nothing_is_left_of_it() {
    tokio::time::pause();
    let begun = Arc::new(tokio::sync::Notify::new());
    let noted = Arc::clone(&begun);
    let slow = async move || {
        noted.notify_one();
        std::future::pending::<()>().await;
    };
    let (router, held) = held(Router::new().route("/", get(slow)));
    let site = Site::start(router, false).await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    begun.notified().await;

    site.stop().await;

    assert_eq!(stream.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(Arc::strong_count(&held), 1);
}

/// Neither those who say nothing nor those who say too little hold a place for ever.
#[tokio::test(start_paused = true)]
async fn connections_without_a_request_are_closed() {
    let site = Site::start(Router::new(), false).await;

    for said in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost:"] {
        let mut stream = site.connect().await;
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
    }

    site.stop().await;
}

#[tokio::test]
async fn who_asks_is_whom_the_last_proxy_saw() {
    let who = async |Extension(peer): Extension<Peer>| format!("{} {}", peer.address, peer.secure);
    let router = Router::new().route("/", get(who));
    let cases = [
        (true, "x-forwarded-for: 1.1.1.1, 2.2.2.2\r\nx-forwarded-proto: https\r\n", "2.2.2.2 true"),
        (true, "x-forwarded-for: 2.2.2.2:4321\r\n", "2.2.2.2 false"),
        (true, "x-forwarded-for: [2001:db8::1]:4321\r\n", "2001:db8::1 false"),
        (true, "x-forwarded-for: [2001:db8::1]\r\n", "2001:db8::1 false"),
        (true, "x-forwarded-for: nonsense\r\n", "127.0.0.1 false"),
        (false, "x-forwarded-for: 2.2.2.2\r\nx-forwarded-proto: https\r\n", "127.0.0.1 false"),
    ];

    for (behind_proxy, headers, expected) in cases {
        let site = Site::start(router.clone(), behind_proxy).await;
        let answer = site.ask(headers).await;
        assert!(answer.ends_with(expected), "{headers} {answer}");
        site.stop().await;
    }
}

#[test]
fn one_address_leaves_room_for_others() {
    let room = Room::default();
    let [one, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));

    let mut places: Vec<_> = std::iter::from_fn(|| room.place(one)).collect();

    assert_eq!(places.len(), CONNECTIONS_OF_ADDRESS_MAX);
    assert!(room.place(other).is_some());
    places.pop();
    assert!(room.place(one).is_some());
    drop(places);
    assert!(room.by_address.lock().unwrap().is_empty());
}
