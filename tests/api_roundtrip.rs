//! The API's two ends against each other over a real socket: every operation arrives as it was sent, every answer comes
//! back as it was given, and what is not an operation is refused in the API's own words.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod api_fake;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    num::{NonZeroU8, NonZeroU16},
    time::Duration,
};

use api_fake::{Fake, RunningFake, refusal};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use weft::api::{
    Client, Operations, Refusal, RefusalKind,
    wire::{
        Affinity, AttachRequest, Availability, DetachRequest, DrainRequest, EndpointMode, HealthRequest, InitRequest,
        JoinRequest, Lb, LeaveRequest, NetnsTarget, NetworkCreateRequest, NodeLabelRequest, Probe,
        ServiceCreateRequest, ServiceUpdateRequest,
    },
};

/// How many operations there are.
const OPERATIONS: usize = 31;

/// Calls every operation once, with as much in each request as fits, and returns the answers.
async fn call_everything(o: &dyn Operations) -> Vec<Result<String, Refusal>> {
    fn text<T: Debug>(answer: Result<T, Refusal>) -> Result<String, Refusal> {
        answer.map(|view| format!("{view:?}"))
    }
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let init = InitRequest {
        store: Some("etcd://a,b".into()),
        pools: words(&["10.9.0.0/16", "fd00:9::/48"]),
        vxlan_port: Some(4789),
    };
    let labels = BTreeMap::from([("zone".to_owned(), Some("a=b".to_owned())), ("old".to_owned(), None)]);
    let network = NetworkCreateRequest {
        name: "front".into(),
        subnets: words(&["10.9.1.0/24"]),
        ipv6: true,
        internal: true,
        mtu: Some(1280),
    };
    let service = ServiceCreateRequest {
        name: "web".into(),
        network: "front".into(),
        ports: vec![
            "8080:80".parse().unwrap(),
            "eth0:53:53/udp".parse().unwrap(),
            "[2001:db8::1]:0:80,mode=proxy,proxy-protocol=v2,proxy-from=10.0.0.0/8".parse().unwrap(),
        ],
        lb: Lb::LeastConn,
        affinity: "10m".parse().unwrap(),
        endpoint_mode: EndpointMode::Dnsrr,
        health: HealthRequest {
            probe: Some("http:/healthz?a=b".parse().unwrap()),
            status: Some("200-299".parse().unwrap()),
            port: NonZeroU16::new(81),
            interval: Some("500ms".parse().unwrap()),
            timeout: Some("1m".parse().unwrap()),
            rise: NonZeroU8::new(2),
            fall: NonZeroU8::new(255),
        },
        drain: Some("90s".parse().unwrap()),
    };
    let update = ServiceUpdateRequest {
        ports: Some(vec!["81:80".parse().unwrap()]),
        add_ports: vec!["82:80/udp".parse().unwrap()],
        remove_ports: vec!["83/udp".parse().unwrap(), "192.0.2.1:84".parse().unwrap()],
        lb: Some(Lb::Source),
        affinity: Some(Affinity::Off),
        endpoint_mode: Some(EndpointMode::Vip),
        health: HealthRequest { probe: Some(Probe::None), ..HealthRequest::default() },
        drain: Some("0s".parse().unwrap()),
    };
    let attach = AttachRequest {
        netns: NetnsTarget::Path("/run/netns/a b".into()),
        network: "front".into(),
        name: Some("web-1".into()),
        aliases: words(&["www", "web"]),
        service: Some("web".into()),
        ip: Some("10.9.1.5".into()),
        ifname: "eth1".into(),
        weight: NonZeroU16::new(7).unwrap(),
        loopback_up: true,
    };
    vec![
        text(o.init(init).await),
        text(o.join(JoinRequest { address: "[fd00::1]:7780".into(), token: "s3cret".into() }).await),
        text(o.leave(LeaveRequest { force: true }).await),
        text(o.down().await),
        text(o.token().await),
        text(o.token_rotate().await),
        text(o.status().await),
        text(o.node_list().await),
        text(o.node_inspect("n/1?x=y #%").await),
        text(o.node_set_availability("n1", Availability::Drain).await),
        text(o.node_drain_view("n/1").await),
        text(o.node_label("n1", NodeLabelRequest { labels }).await),
        text(o.node_remove("..").await),
        text(o.network_create(network).await),
        text(o.network_list().await),
        text(o.network_inspect("front").await),
        text(o.network_remove("front").await),
        text(o.service_create(service).await),
        text(o.service_list().await),
        text(o.service_replicas("web").await),
        text(o.service_inspect("web").await),
        text(o.service_update("web", update).await),
        text(o.service_remove("web").await),
        text(o.attach(attach).await),
        text(o.endpoint_drain("front/web-1", DrainRequest { timeout: Some("1500ms".parse().unwrap()) }).await),
        text(o.endpoint_drain_view("front/web-1").await),
        text(o.detach("front/web-1", DetachRequest { force: true }).await),
        text(o.release("front/web-1").await),
        text(o.endpoint_list().await),
        text(o.endpoint_inspect("é").await),
        text(o.ipam_list().await),
    ]
}

#[tokio::test]
async fn every_operation_arrives_and_is_answered() {
    let (near, far) = (Fake::default(), RunningFake::start(Fake::default()));
    let expected = call_everything(&near).await;
    assert_eq!(expected.len(), OPERATIONS);
    assert!(expected.iter().all(Result::is_ok));

    assert_eq!(call_everything(&Client::new(far.socket())).await, expected);
    let arrived = far.fake.take_calls();
    assert_eq!(arrived, near.take_calls());
    assert_eq!(arrived.len(), OPERATIONS);
}

#[tokio::test]
async fn every_operation_can_be_refused_in_every_way() {
    let far = RunningFake::start(Fake::default());
    let client = Client::new(far.socket());
    for kind in RefusalKind::ALL {
        far.fake.refuse_all(kind);
        assert_eq!(call_everything(&client).await, vec![Err(refusal(kind)); OPERATIONS]);
    }
}

/// Sends one request as bytes and returns the status and the body.
async fn raw(far: &RunningFake, head: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(far.socket()).await.unwrap();
    let length = body.len();
    let request =
        format!("{head} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    // A server that refuses a long body may close before all of it is written.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn what_is_no_operation_is_refused_in_one_clear_line() {
    let far = RunningFake::start(Fake::default());
    let unknown_field = r#"{"name":"a","netwrok":"b"}"#;
    for (head, body, status, error) in [
        ("GET /v1/nothing", "", 404, "the agent's API has no /v1/nothing"),
        ("GET /", "", 404, "the agent's API has no /"),
        ("PUT /v1/status", "", 405, "the agent's API does not know PUT on /v1/status"),
        ("GET /v1/nodes/%FF", "", 400, "cannot understand the path: "),
        (
            "POST /v1/networks",
            "{",
            400,
            "cannot understand the request: EOF while parsing an object at line 1 column 1",
        ),
        ("POST /v1/networks", "", 400, "cannot understand the request: missing field `name`"),
        ("POST /v1/networks", r#"{"name":7}"#, 400, "cannot understand the request: invalid type: integer `7`"),
        ("POST /v1/services", unknown_field, 400, "cannot understand the request: unknown field `netwrok`"),
        (
            "POST /v1/services",
            r#"{"name":"a","network":"b","ports":[{"published":1,"target":0}]}"#,
            400,
            "a nonzero u16",
        ),
        (
            "POST /v1/services",
            r#"{"name":"a","network":"b","ports":[{"published":1,"target":1,"proxy_protocol":"v1"}]}"#,
            400,
            "proxy-protocol needs mode=proxy",
        ),
        ("POST /v1/services", r#"{"name":"a","network":"b","drain":"10"}"#, 400, "is not a length of time"),
        ("POST /v1/services", r#"{"name":"a","network":"b","affinity":5}"#, 400, "invalid type: integer"),
        ("POST /v1/services", r#"{"name":"a","network":"b","lb":"fair"}"#, 400, "unknown variant `fair`"),
        ("POST /v1/services", r#"{"name":"a","network":"b","health":{"probe":"http:x"}}"#, 400, "a probe's path"),
        (
            "POST /v1/endpoints",
            r#"{"network":"a","netns":{"pid":-1}}"#,
            400,
            "cannot understand the request: invalid value",
        ),
        ("POST /v1/nodes/a/availability", r#"{"availability":"gone"}"#, 400, "expected `active` or `drain`"),
    ] {
        let (answered, body) = raw(&far, head, body).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answered, status, "{head}: {body}");
        let text = body["error"].as_str().unwrap();
        assert!(text.contains(error) && !text.contains('\n'), "{head}: {text}");
    }
    assert_eq!(far.fake.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_request_too_long_is_refused() {
    let far = RunningFake::start(Fake::default());
    let body = format!(r#"{{"name":"{}"}}"#, "a".repeat(1 << 20));
    let (status, body) = raw(&far, "POST /v1/networks", &body).await;
    assert_eq!(status, 413);
    assert!(body.starts_with(r#"{"error":"cannot read the request: "#) && body.contains("length limit"), "{body}");
}

#[tokio::test]
async fn what_a_request_leaves_out_has_its_default() {
    let far = RunningFake::start(Fake::default());
    for (head, body) in [
        ("POST /v1/init", ""),
        ("POST /v1/leave", "{}"),
        ("POST /v1/networks", r#"{"name":"a"}"#),
        ("POST /v1/services", r#"{"name":"a","network":"b","ports":[{"published":8080,"target":80}]}"#),
        ("POST /v1/endpoints", r#"{"network":"a","netns":{"pid":4711}}"#),
    ] {
        let (status, body) = raw(&far, head, body).await;
        assert!((200..300).contains(&status), "{head}: {body}");
    }
    let expected = [
        r#"init "" InitRequest { store: None, pools: [], vxlan_port: None }"#,
        r#"leave "" LeaveRequest { force: false }"#,
        r#"network_create "a" NetworkCreateRequest { name: "a", subnets: [], ipv6: false, internal: false, mtu: None }"#,
        concat!(
            r#"service_create "a" ServiceCreateRequest { name: "a", network: "b", "#,
            r"ports: [PortSpec { bind: Any, published: 8080, target: 80, protocol: Tcp, mode: Kernel }], lb: Rr, ",
            r"affinity: Off, endpoint_mode: Vip, health: HealthRequest { probe: None, status: None, port: None, ",
            r"interval: None, timeout: None, rise: None, fall: None }, drain: None }"
        ),
        concat!(
            r#"attach "a" AttachRequest { netns: Pid(4711), network: "a", name: None, aliases: [], service: None, "#,
            r#"ip: None, ifname: "eth0", weight: 1, loopback_up: false }"#
        ),
    ];
    assert_eq!(far.fake.take_calls(), expected);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_told_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("weft.sock");
    let dead = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    for (socket, why) in [(&missing, "there is no such socket"), (&dead, "nothing listens there")] {
        let refused = Client::new(socket).status().await.unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Unavailable);
        assert_eq!(refused.message, format!("cannot reach the agent at {}: {why}", socket.display()));
        assert!(refused.hint.unwrap().contains("weft agent"));
    }
}

#[tokio::test]
async fn the_socket_is_gone_after_a_shutdown() {
    let far = RunningFake::start(Fake::default());
    let (socket, client) = (far.socket(), Client::new(far.socket()));
    client.status().await.unwrap();
    // An idle connection must not hold the shutdown up.
    let idle = UnixStream::connect(&socket).await.unwrap();
    drop(far);
    assert!(!socket.exists());
    drop(idle);
    assert_eq!(client.status().await.unwrap_err().kind, RefusalKind::Unavailable);
}

#[tokio::test]
async fn an_operation_outlives_a_client_that_goes_away() {
    let far = RunningFake::start(Fake::default());
    let mut stream = UnixStream::connect(far.socket()).await.unwrap();
    stream.write_all(b"DELETE /v1/endpoints/slow HTTP/1.1\r\nHost: weft\r\n\r\n").await.unwrap();
    assert_eq!(next_call(&far).await, r#"detach "slow" DetachRequest { force: false }"#);
    drop(stream);
    // Answered by the same thread as the lost connection, and after it.
    Client::new(far.socket()).token().await.unwrap();
    assert_eq!(next_call(&far).await, r#"token "" ()"#);
    far.fake.release();
    assert_eq!(next_call(&far).await, r#"detached "slow" ()"#);
}

#[tokio::test]
async fn a_defect_in_one_operation_is_told_and_leaves_the_others() {
    let far = RunningFake::start(Fake::default());
    let client = Client::new(far.socket());
    let refused = client.detach("panic", DetachRequest::default()).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Internal);
    assert!(refused.message.contains("failed in the middle of the operation"), "{refused}");
    client.detach("web-1", DetachRequest::default()).await.unwrap();
}

/// The one call that the agent notes next, within 10 s.
async fn next_call(far: &RunningFake) -> String {
    let noted = async {
        loop {
            if let Some(call) = far.fake.take_calls().pop() {
                return call;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), noted).await.unwrap()
}
