//! Engines that hang, fail a step or die: what clients and health checks hear.

use crate::server::{Server, settled};
use koma_engine::models::kernels::{Error, Fault};
use koma_server::ServerLimits;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const TEXT: &str = "/v1/completions";

#[tokio::test]
async fn work_without_progress_is_unhealthy() {
    let impatient = ServerLimits {
        hung_after: Duration::ZERO,
        ..ServerLimits::default()
    };
    for (limits, status) in [(impatient, 503), (ServerLimits::default(), 200)] {
        let (server, gate) = Server::gated_with(limits);
        let model = server.state.ready().next().unwrap();
        for path in ["/health", "/ping"] {
            assert_eq!(
                server.get(path).await.status,
                200,
                "{path} of an idle server"
            );
        }
        let body = json!({"prompt": "a", "stream": true, "max_tokens": 4});
        let stream = server.open(TEXT, body).await;
        for path in ["/health", "/ping"] {
            assert_eq!(
                server.get(path).await.status,
                status,
                "{path} while a step hangs"
            );
        }
        assert_eq!(server.get("/ready").await.status, 200, "loaded it is");
        drop(stream);
        gate.allow(1000);
        settled(&model, |stats| stats.running + stats.waiting == 0).await;
        settled(&model, |_| !model.handle.health().pending).await;
        assert_eq!(server.get("/health").await.status, 200, "it is over");
    }
}

#[tokio::test]
async fn a_failed_step_says_nothing_of_the_inside_and_the_server_goes_on() {
    static FAIL: AtomicBool = AtomicBool::new(true);
    let server = Server::hooked(ServerLimits::default(), || {
        if FAIL.load(Ordering::SeqCst) {
            return Err(Error::Device(
                Fault::Other,
                "secret address 0xdead".to_owned(),
            ));
        }
        Ok(())
    });
    let body = json!({"prompt": "a", "max_tokens": 2});
    let reply = server.post(TEXT, body.clone()).await;
    assert_eq!(
        (reply.status, &reply.json()["error"]["code"]),
        (500, &json!("internal_error"))
    );
    assert!(!reply.text().contains("secret"), "{}", reply.text());
    let mut stream = body.clone();
    stream["stream"] = json!(true);
    let events = server.post(TEXT, stream).await.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[0].contains("internal_error") && !events[0].contains("secret"));
    assert_eq!(events[1], "[DONE]");
    FAIL.store(false, Ordering::SeqCst);
    server.still_answers().await;
}

#[tokio::test]
async fn a_device_s_fault_has_its_status_and_a_broken_one_is_unhealthy() {
    let table = [
        (Fault::Timeout, 504, "device_timeout", None, 200),
        (Fault::Busy, 503, "device_busy", Some("1"), 200),
        (Fault::Broken, 503, "device_broken", Some("10"), 503),
        (Fault::Other, 500, "internal_error", None, 200),
    ];
    for (fault, status, code, retry_after, health) in table {
        let server = Server::hooked(ServerLimits::default(), move || {
            Err(Error::Device(fault, "secret address 0xdead".to_owned()))
        });
        let body = json!({"prompt": "a", "max_tokens": 2});
        let reply = server.post(TEXT, body).await;
        assert_eq!(reply.status, status, "{fault:?}");
        assert_eq!(reply.json()["error"]["code"], code);
        assert_eq!(reply.header("retry-after"), retry_after, "{fault:?}");
        assert!(!reply.text().contains("0xdead"));
        assert_eq!(server.get("/ping").await.status, health, "{fault:?}");
        assert_eq!(server.get("/health").await.status, health, "{fault:?}");
    }
}

#[tokio::test]
async fn a_dead_engine_is_unhealthy_and_the_others_go_on() {
    let server = Server::hooked(ServerLimits::default(), || {
        panic!("the test kills this engine")
    });
    let body = json!({"prompt": "a", "max_tokens": 2});
    for _ in 0..2 {
        let reply = server.post(TEXT, body.clone()).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (503, &json!("engine_dead"))
        );
    }
    assert_eq!(server.get("/health").await.status, 503);
    assert_eq!(server.get("/ping").await.status, 503);
    let reply = server.post("/v1/embeddings", json!({"input": "a"})).await;
    assert_eq!(reply.status, 200);
}
