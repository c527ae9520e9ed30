use super::*;

fn throughput() -> Value {
    json!({
        "schema": "koma.bench.throughput/1",
        "environment": {"cpu": "Some CPU", "profile": "release"},
        "model": {"weights_hash": "ab"},
        "settings": {"batch": 16, "input_len": 128, "output_len": null},
        "results": {"requests_per_second": {"median": 50.0}},
    })
}

fn serve() -> Value {
    json!({
        "schema": "koma.bench.serve/1",
        "environment": {"cpu": "Some CPU", "device": "neuron", "profile": "debug"},
        "server": {"url": "http://localhost:8080", "weights_hash": null},
        "settings": {"input_len": 128, "output_len": null, "documents": 10},
        "series": [
            {"concurrency": 8, "requests_per_second": 5.0, "failed": 0},
            {"rate": 2.5, "requests_per_second": 2.5, "failed": 0},
        ],
    })
}

fn found(json: &Value) -> anyhow::Result<Vec<Measured>> {
    of_json(json, "f.json".to_owned(), "ab")
}

#[test]
fn throughputs_are_read_of_both_kinds_of_files() {
    let one = found(&throughput()).unwrap().remove(0);
    assert_eq!(
        (one.load.as_str(), one.machine.as_str()),
        ("16 x 128 tokens", "Some CPU")
    );
    assert_eq!(
        (one.per_second, one.same_weights, one.debug),
        (50.0, true, false)
    );
    let series = found(&serve()).unwrap();
    assert_eq!(series[0].load, "8 at once, 10 x 128 tokens");
    assert_eq!((series[0].per_second, series[1].per_second), (50.0, 25.0));
    assert_eq!(series[1].load, "2.5 requests/s sent, 10 x 128 tokens");
    assert_eq!(
        (series[0].machine.as_str(), series[0].same_weights),
        ("neuron", false)
    );
}

/// What computed, and whether its weights are known, by what the file of a server says.
#[test]
fn a_server_s_machine_is_its_own() {
    for (url, device, machine) in [
        ("http://localhost:8080", json!("neuron"), "neuron"),
        ("http://inf2.example:80", json!("neuron"), "neuron"),
        ("http://127.0.0.1:8080", json!("cpu"), "Some CPU"),
        ("http://localhost:8080", Value::Null, "Some CPU"),
        (
            "http://big.example:80",
            json!("cpu"),
            "processor of http://big.example:80",
        ),
    ] {
        let mut json = serve();
        json["environment"]["device"] = device;
        json["server"]["url"] = json!(url);
        assert_eq!(found(&json).unwrap()[0].machine, machine, "{url}");
    }
    let mut json = serve();
    json["server"]["weights_hash"] = json!("ab");
    assert!(found(&json).unwrap()[0].same_weights);
    json["server"]["weights_hash"] = json!("cd");
    let error = found(&json).unwrap_err().to_string();
    assert!(error.contains("another model was measured"), "{error}");
}

#[test]
fn what_is_no_measurement_of_this_model_is_refused() {
    for (pointer, value, part) in [
        (
            "/schema",
            json!("koma.bench.latency/1"),
            "koma.bench.latency/1",
        ),
        (
            "/model/weights_hash",
            json!("cd"),
            "another model was measured",
        ),
        (
            "/results/requests_per_second/median",
            json!(0.0),
            "requests_per_second",
        ),
        ("/settings/output_len", json!(64), "output_len"),
        ("/settings/input_len", json!("x"), "input_len"),
    ] {
        let mut json = throughput();
        *json.pointer_mut(pointer).unwrap() = value;
        let error = format!("{:#}", found(&json).unwrap_err());
        assert!(error.contains(part), "{error}");
    }
    let mut json = serve();
    json["series"][1]["failed"] = json!(1);
    assert!(
        found(&json)
            .unwrap_err()
            .to_string()
            .contains("1 requests failed")
    );
    json["series"] = json!([]);
    assert!(found(&json).is_err());
}

#[test]
fn prices_are_computed_and_compared_where_they_compare() {
    let priced = |json: &Value, per_hour| {
        let measured = found(json).unwrap().remove(0);
        Priced { measured, per_hour }
    };
    // 0.36 an hour for 180,000 inferences.
    let first = priced(&throughput(), 0.36);
    assert!((first.per_million() - 2.0).abs() < 1e-12);
    let mut twice = serve();
    let second = priced(&twice, 0.72);
    let shown = text(&[first.clone(), second]);
    assert!(
        shown.contains("2.0000") && shown.contains("200 %"),
        "{shown}"
    );
    assert!(shown.contains("which weights it had") && shown.contains("not of a release build"));
    twice["settings"]["input_len"] = json!(32);
    let shown = text(&[first.clone(), priced(&twice, 0.72)]);
    assert!(
        shown.contains("do not compare") && !shown.contains('%'),
        "{shown}"
    );
    assert!(!text(&[first]).contains('%'));
}
