//! `koma serve` on Neuron cores over a real socket, with a stand-in for the device (see `koma_tests::fake_nrt`): what clients, health
//! checks and Prometheus see of right answers, of every failure, and of a device that is not there.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

use koma_neuron_export::manifest::{Manifest, Weights};
use koma_tests::artifact::{golden, make};
use koma_tests::fake_nrt::{FakeNrt, toy};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use tempfile::TempDir;

/// A golden classifier, its compiled export, and a stand-in that is told `conf`.
struct World {
    model: PathBuf,
    artifact: TempDir,
    fake: FakeNrt,
    /// What the separate weights add up to.
    weights: f64,
}

impl World {
    fn new(weights: Weights, conf: &str) -> Self {
        Self::of("distilbert_classify", weights, conf)
    }

    fn of(model: &str, weights: Weights, conf: &str) -> Self {
        let (model, artifact) = (golden(model), tempfile::tempdir().unwrap());
        Self {
            weights: make(&model, artifact.path(), (&[1, 4], &[16, 32]), weights),
            model,
            artifact,
            fake: FakeNrt::new(conf),
        }
    }

    fn arguments(&self, device: &str) -> Vec<String> {
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let source = format!("intent={}", path(&self.model));
        let mut all = vec![source, "--device".to_owned(), device.to_owned()];
        all.extend(["--neuron".to_owned(), path(self.artifact.path())]);
        all.extend(["--neuron-library".to_owned(), path(&self.fake.library())]);
        all
    }

    fn serve(&self, device: &str) -> Server {
        Server::start(&self.arguments(device), &[])
    }
}

fn model() -> PathBuf {
    golden("distilbert_classify")
}

/// Text and ids of the golden inputs that fit the longest bucket.
fn inputs() -> Vec<(String, Vec<u32>)> {
    let case = model().parent().unwrap().join("case.json");
    let case: Value = serde_json::from_str(&std::fs::read_to_string(case).unwrap()).unwrap();
    let inputs = case["inputs"].as_array().unwrap().iter();
    let inputs = inputs.filter(|input| input["pair"].is_null() && input["text"] != "");
    let ids = |input: &Value| serde_json::from_value::<Vec<u32>>(input["ids"].clone()).unwrap();
    let inputs = inputs.map(|input| (input["text"].as_str().unwrap().to_owned(), ids(input)));
    let inputs: Vec<_> = inputs.filter(|(_, ids)| ids.len() <= 32).collect();
    assert!(inputs.len() > 4);
    inputs
}

/// `koma serve`.
fn koma(arguments: &[String], variables: &[(&str, &str)]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_koma"))
        .arg("serve")
        .args(arguments)
        .args(["--port", "0", "--threads", "1"])
        .env_clear()
        .envs(variables.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary is built with this test")
}

/// A process that does not outlive the test, also when that fails.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that is ready.
struct Server {
    process: Process,
    address: String,
    log: JoinHandle<String>,
    /// What it said before it was ready.
    start: String,
}

/// An answer.
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn rows(&self) -> Vec<Vec<f32>> {
        assert_eq!(self.status, 200, "{}", self.body);
        let data = self.json()["data"].clone();
        let rows = data.as_array().unwrap().iter();
        rows.map(|one| serde_json::from_value(one["probs"].clone()).unwrap())
            .collect()
    }
}

impl Server {
    fn start(arguments: &[String], variables: &[(&str, &str)]) -> Self {
        let mut process = Process(koma(arguments, variables));
        let mut stderr = BufReader::new(process.0.stderr.take().unwrap());
        let mut start = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(
                stderr.read_line(&mut line).unwrap() > 0,
                "not ready:\n{start}"
            );
            start.push_str(&line);
            if let Some((_, rest)) = line.split_once("ready at http://") {
                break rest.split(' ').next().unwrap().to_owned();
            }
        };
        let log = std::thread::spawn(move || {
            let mut rest = String::new();
            // Whatever cannot be read is missing in the messages of a failed test.
            let _ = stderr.read_to_string(&mut rest);
            rest
        });
        Self {
            process,
            address,
            log,
            start,
        }
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let len = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: koma\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        Reply {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    fn get(&self, path: &str) -> Reply {
        self.exchange("GET", path, "")
    }

    fn classify(&self, input: &Value) -> Reply {
        let body = json!({"input": input, "raw_scores": true});
        self.exchange("POST", "/classify", &body.to_string())
    }

    /// The sum of a series over the labels that hold `label`.
    fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").body;
        let lines = text
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Asks it to end; what it said since it was ready.
    fn end(mut self) -> String {
        let pid = self.process.0.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        assert!(told.success());
        let status = self.process.0.wait().unwrap();
        let log = self.log.join().unwrap();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

/// What a server says that does not start.
fn refused(arguments: &[String]) -> String {
    let output = koma(arguments, &[]).wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn many_clients_get_the_device_s_answers_and_all_is_given_back() {
    let world = World::new(Weights::Separate, "cores 2");
    let server = world.serve("neuron");
    assert!(server.start.contains("neuron x 2"), "{}", server.start);
    let inputs = inputs();
    let expected: Vec<_> = inputs
        .iter()
        .map(|(_, ids)| toy(ids, &[], 3, world.weights))
        .collect();
    std::thread::scope(|scope| {
        for client in 0..6 {
            let (server, inputs, expected) = (&server, &inputs, &expected);
            scope.spawn(move || {
                for round in 0..8 {
                    let at = (client + round) % inputs.len();
                    let one = server.classify(&json!(inputs[at].0));
                    assert_eq!(one.rows(), [expected[at].clone()]);
                    let texts: Vec<_> = inputs.iter().map(|(text, _)| text).collect();
                    assert_eq!(server.classify(&json!(texts)).rows(), *expected);
                }
            });
        }
    });
    let models = server.get("/v1/models").json();
    assert_eq!(models["data"][0]["koma"]["device"], "neuron");
    assert_eq!(models["data"][0]["max_model_len"], 32);
    assert_eq!(server.metric("koma_model_info", "device=\"neuron\""), 1.0);
    for core in ["core=\"0\"", "core=\"1\""] {
        assert!(server.metric("koma_neuron_executions_total", core) > 0.0);
    }
    let texts: usize = inputs.iter().map(|(_, ids)| ids.len()).sum();
    let alone: usize = (0..6)
        .flat_map(|c| (0..8).map(move |r| c + r))
        .map(|n| inputs[n % inputs.len()].1.len())
        .sum();
    assert_eq!(
        server.metric("koma_neuron_tokens_total", ""),
        (6 * 8 * texts + alone) as f64
    );
    assert!(server.metric("koma_neuron_padding_tokens_total", "") > 0.0);
    assert_eq!(server.metric("koma_neuron_errors_total", ""), 0.0);
    let executions = server.metric("koma_neuron_executions_total", "");
    server.end();
    world.fake.check_released();
    assert_eq!(world.fake.closed()["executions"] as f64, executions);
}

#[test]
fn reranking_and_embeddings_are_shared_too() {
    let world = World::of("bert_cross", Weights::Separate, "");
    let server = world.serve("neuron");
    // The golden pair, as ids and segments: the tokenizer and the segments are the model's own.
    let case = world.model.parent().unwrap().join("case.json");
    let case: Value = serde_json::from_str(&std::fs::read_to_string(case).unwrap()).unwrap();
    let pair = &case["inputs"][0];
    let list = |name: &str| serde_json::from_value::<Vec<u32>>(pair[name].clone()).unwrap();
    let expected = toy(&list("ids"), &list("type_ids"), 1, world.weights)[0];
    let body =
        json!({"query": pair["text"], "documents": ["manga", pair["pair"]], "raw_scores": true});
    let reply = server.exchange("POST", "/v1/rerank", &body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    let results = reply.json()["results"].clone();
    let of_pair = results
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["index"] == 1)
        .unwrap();
    assert_eq!(
        of_pair["relevance_score"]
            .as_f64()
            .map(|score| score as f32),
        Some(expected)
    );
    server.end();
    world.fake.check_released();

    let world = World::of("bert_embed_mean", Weights::Inline, "");
    let server = world.serve("neuron");
    let ids = [5, 6, 7];
    let body = json!({"input": [ids], "encoding_format": "float"}).to_string();
    let reply = server.exchange("POST", "/v1/embeddings", &body);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let vector: Vec<f32> =
        serde_json::from_value(reply.json()["data"][0]["embedding"].clone()).unwrap();
    // As the CPU's vectors, it comes divided by its length.
    let raw = toy(&ids, &[], 32, 0.0);
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert_eq!(vector.len(), raw.len());
    for (value, x) in vector.iter().zip(&raw) {
        assert!((value - x / length).abs() < 1e-6, "{vector:?}");
    }
    server.end();
    world.fake.check_released();
}

#[test]
fn softmax_labels_and_limits_are_the_server_s() {
    let world = World::new(Weights::Inline, "");
    let server = world.serve("neuron");
    let (text, ids) = &inputs()[0];
    let body = json!({"input": text}).to_string();
    let probs = &server.exchange("POST", "/classify", &body).rows()[0];
    let raw = toy(ids, &[], 3, 0.0);
    let most = raw.iter().copied().fold(f32::MIN, f32::max);
    let sum: f32 = raw.iter().map(|x| (x - most).exp()).sum();
    for (prob, x) in probs.iter().zip(&raw) {
        assert!((prob - (x - most).exp() / sum).abs() < 1e-6);
    }
    let long = server.classify(&json!("manga ".repeat(40)));
    assert_eq!(
        (long.status, &long.json()["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    let unknown = server.classify(&json!([[100_000]]));
    assert_eq!(unknown.status, 400, "{}", unknown.body);
    server.end();
    world.fake.check_released();
}

#[test]
fn each_status_of_the_device_has_its_answer_and_its_health() {
    let table = [
        (5, 504, "device_timeout", None, 200),
        (7, 503, "device_busy", Some("retry-after: 1"), 200),
        (1005, 503, "device_busy", Some("retry-after: 1"), 200),
        (6, 503, "device_broken", Some("retry-after: 10"), 503),
        (1004, 500, "internal_error", None, 200),
    ];
    for (status, http, code, retry_after, ping) in table {
        let world = World::new(Weights::Inline, &format!("nrt_execute {status} 0 1"));
        let server = world.serve("neuron");
        let failed = server.classify(&json!("manga"));
        assert_eq!(
            (failed.status, &failed.json()["error"]["code"]),
            (http, &json!(code))
        );
        assert_eq!(
            retry_after.is_some(),
            failed.head.contains("retry-after"),
            "{}",
            failed.head
        );
        assert!(
            failed.head.contains(retry_after.unwrap_or_default()),
            "{}",
            failed.head
        );
        assert_eq!(server.get("/ping").status, ping, "{status}");
        let label = format!("status=\"{status}\"");
        assert_eq!(server.metric("koma_neuron_errors_total", &label), 1.0);
        assert_eq!(
            server.classify(&json!("manga")).status,
            200,
            "the next one works"
        );
        server.end();
        world.fake.check_released();
    }
}

#[test]
fn what_is_no_number_is_answered_by_the_cpu_and_counted() {
    let world = World::new(Weights::Inline, "nrt_execute 1003 0 1");
    let cpu = Server::start(&[format!("intent={}", model().display())], &[]);
    assert!(cpu.start.contains("cpu"), "{}", cpu.start);
    let server = world.serve("neuron");
    let (text, ids) = &inputs()[1];
    let (again, device) = (server.classify(&json!(text)), server.classify(&json!(text)));
    assert_eq!(again.rows(), cpu.classify(&json!(text)).rows());
    assert_eq!(device.rows(), [toy(ids, &[], 3, 0.0)]);
    assert_eq!(server.metric("koma_neuron_cpu_reruns_total", ""), 1.0);
    assert_eq!(cpu.metric("koma_neuron", ""), 0.0);
    server.end();
    cpu.end();
    world.fake.check_released();
}

#[test]
fn without_a_device_neuron_refuses_and_auto_takes_the_cpu_with_a_warning() {
    let cases = [
        "nrt_init 1 0 0",
        "nrt_load 9 0 0",
        "nrt_load 10 0 0",
        "cores 0",
    ];
    for conf in cases {
        let world = World::new(Weights::Inline, conf);
        let said = refused(&world.arguments("neuron"));
        assert!(
            said.contains("model `intent` cannot be served by a Neuron device"),
            "{said}"
        );
        let server = world.serve("auto");
        assert!(
            server.start.contains("the CPU computes it"),
            "{}",
            server.start
        );
        assert_eq!(
            server.get("/v1/models").json()["data"][0]["koma"]["device"],
            "cpu"
        );
        assert_eq!(server.classify(&json!("manga")).status, 200);
        server.end();
    }
    let world = World::new(Weights::Inline, "");
    let mut arguments = world.arguments("neuron");
    *arguments.last_mut().unwrap() = "/nowhere/libnrt.so.1".to_owned();
    let said = refused(&arguments);
    assert!(
        said.contains("Neuron runtime") && said.contains("/nowhere/libnrt.so.1"),
        "{said}"
    );
    *arguments.iter_mut().find(|word| *word == "neuron").unwrap() = "auto".to_owned();
    let server = Server::start(&arguments, &[]);
    assert!(
        server.start.contains("/nowhere/libnrt.so.1"),
        "{}",
        server.start
    );
    server.end();
}

#[test]
fn another_model_s_export_is_refused_with_auto_as_well() {
    let world = World::new(Weights::Inline, "");
    let folder = world.artifact.path();
    let mut manifest = Manifest::read(folder).unwrap();
    manifest.labels.swap(0, 2);
    manifest.write(folder).unwrap();
    for device in ["neuron", "auto"] {
        let said = refused(&world.arguments(device));
        assert!(
            said.contains("labels") && said.contains("another checkpoint"),
            "{said}"
        );
    }
}

#[test]
fn the_file_and_the_environment_say_what_computes() {
    let world = World::new(Weights::Inline, "");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("koma.toml");
    // The export lies where it is looked for: in the model's folder.
    let copy = folder.path().join("intent");
    std::fs::create_dir(&copy).unwrap();
    for (from, to) in [
        (model(), copy.clone()),
        (world.artifact.path().into(), copy.join("neuron")),
    ] {
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    let library = world.fake.library();
    let text = format!(
        "neuron-library = \"{}\"\n[[model]]\nname = \"here\"\nsource = \"intent\"\ndevice = \"cpu\"\n\
         [[model]]\nname = \"there\"\nsource = \"intent\"\ndevice = \"neuron\"\nneuron = \"intent/neuron\"\n",
        library.display()
    );
    std::fs::write(&file, text).unwrap();
    let config = ["--config".to_owned(), file.to_str().unwrap().to_owned()];
    let server = Server::start(&config, &[]);
    let models = server.get("/v1/models").json();
    let device = |at: usize| models["data"][at]["koma"]["device"].clone();
    assert_eq!((device(0), device(1)), (json!("cpu"), json!("neuron")));
    server.end();
    world.fake.check_released();

    let variables = [
        ("KOMA_DEVICE", "neuron"),
        ("KOMA_NEURON_LIBRARY", library.to_str().unwrap()),
    ];
    let server = Server::start(&[copy.to_str().unwrap().to_owned()], &variables);
    assert_eq!(
        server.get("/v1/models").json()["data"][0]["koma"]["device"],
        "neuron"
    );
    server.end();
    world.fake.check_released();
}

/// The output of `koma` with these arguments, which must go well.
fn output(arguments: &[String]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_koma"))
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{arguments:?}: {said}");
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn each_device_is_measured_under_its_name_and_has_its_own_price() {
    let world = World::new(Weights::Inline, "");
    let folder = tempfile::tempdir().unwrap();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut cost = words("export cost");
    cost.push(world.artifact.path().display().to_string());
    let mut measured = Vec::new();
    for (device, price) in [("neuron", 0.76), ("cpu", 0.34)] {
        let file = folder.path().join(format!("{device}.json"));
        let file = file.to_str().unwrap();
        let mut bench = words("bench throughput");
        bench.extend(world.arguments(device));
        // The name is a server's.
        bench[2] = bench[2].replace("intent=", "");
        let load =
            format!("--batch 4 --input-len 16 --runs 1 --warmup 0 --threads 1 --json {file}");
        bench.extend(words(&load));
        output(&bench);
        let json: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(json["environment"]["device"], device);
        let rate = json["results"]["requests_per_second"]["median"]
            .as_f64()
            .unwrap();
        let machine = match device {
            "cpu" => json["environment"]["cpu"].clone(),
            other => json!(other),
        };
        measured.push((machine, price / (3600.0 * rate) * 1e6));
        cost.extend(words(&format!("--bench {file} --price-per-hour {price}")));
    }
    world.fake.check_released();
    let table = output(&cost);
    cost.extend(words("--json -"));
    let priced: Value = serde_json::from_str(&output(&cost)).unwrap();
    for (row, (machine, price)) in priced["rows"].as_array().unwrap().iter().zip(&measured) {
        if machine.is_string() {
            assert_eq!(&row["machine"], machine);
        }
        let off = row["price_per_million"].as_f64().unwrap() / price - 1.0;
        assert!(off.abs() < 1e-12, "{row}");
        assert!(table.contains(&format!("{price:.4}")), "{table}");
    }
    // A measurement of another model has no price here.
    let other = World::of("bert_classify", Weights::Inline, "");
    cost[2] = other.artifact.path().display().to_string();
    let refused = Command::new(env!("CARGO_BIN_EXE_koma"))
        .args(&cost)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("another model was measured"),
        "{said}"
    );
}

#[test]
fn nothing_of_the_runtime_is_linked() {
    let listed = Command::new("ldd")
        .arg(env!("CARGO_BIN_EXE_koma"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("libc.so"), "ldd lists libraries: {listed}");
    assert!(!listed.contains("nrt"), "{listed}");
}
