use super::values::parse_size;
use super::*;
use crate::args::{Cli, Command};
use clap::Parser;
use std::fs;
use tempfile::TempDir;

/// A folder with models `a.gguf` and `folder/config.json`, and an empty one for `SageMaker`.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.gguf"), "").unwrap();
        fs::write(dir.path().join("b.gguf"), "").unwrap();
        fs::create_dir_all(dir.path().join("folder.v1")).unwrap();
        fs::write(dir.path().join("folder.v1/config.json"), "{}").unwrap();
        fs::create_dir_all(dir.path().join("sagemaker")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Resolves a command line (`@x` stands for the path of `x`), variables and a file.
    fn resolve(
        &self,
        line: &str,
        variables: &[(&str, &str)],
        file: Option<&str>,
    ) -> Result<ServeConfig, String> {
        let expand = |text: &str| text.replace('@', &self.path(""));
        let mut words = vec!["koma".to_owned(), "serve".to_owned()];
        words.extend(line.split_whitespace().map(expand));
        if let Some(text) = file {
            fs::write(self.path("koma.toml"), text).unwrap();
            words.extend(["--config".to_owned(), self.path("koma.toml")]);
        }
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let Command::Serve(args) = cli.command else {
            panic!("not serve")
        };
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), expand(value));
        let environment: Environment = variables.iter().map(pair).collect();
        let around = Surroundings {
            cores: 3,
            sagemaker: self.dir.path().join("sagemaker"),
            ..Surroundings::default()
        };
        ServeConfig::resolve(&args, &environment, &around)
    }

    fn error(&self, line: &str, variables: &[(&str, &str)], file: Option<&str>) -> String {
        match self.resolve(line, variables, file) {
            Ok(config) => panic!("resolved to {config:?}"),
            Err(error) => error,
        }
    }
}

#[test]
fn defaults() {
    let config = World::new().resolve("@a.gguf", &[], None).unwrap();
    assert_eq!((config.host.as_str(), config.port), ("127.0.0.1", 8080));
    assert_eq!(config.drain_timeout, Duration::from_secs(25));
    assert_eq!(config.data_dir, None);
    assert_eq!(config.process.threads, 3);
    assert_eq!(config.process.isa, Isa::detect());
    assert_eq!(config.process.log_format, LogFormat::Text);
    assert_eq!(config.process.log_filter, "info");
    let [model] = config.models.as_slice() else {
        panic!("{config:?}")
    };
    assert_eq!(model.name, "a");
    assert_eq!((model.dtype, model.kv_dtype), (Dtype::Auto, KvDtype::Bf16));
    assert_eq!((model.kv_cache_bytes, model.max_model_len), (None, None));
    assert_eq!((model.max_running, model.max_batch_tokens), (128, None));
    assert_eq!([true, false].map(|g| model.batch_tokens(g)), [512, 2048]);
    assert_eq!(model.class, None);
}

#[test]
fn a_flag_wins_over_a_variable_over_the_model_over_the_file_over_the_default() {
    let world = World::new();
    let check = |line: &str, variable: Option<&str>, model: &str, top: &str, expected: usize| {
        let variables: Vec<_> = variable
            .map(|v| ("KOMA_MAX_RUNNING", v))
            .into_iter()
            .collect();
        let file = format!("{top}\n[[model]]\nsource = \"a.gguf\"\n{model}");
        let config = world.resolve(line, &variables, Some(&file)).unwrap();
        assert_eq!(config.models[0].max_running, expected);
    };
    let (model, top) = ("max-running = 3", "max-running = 4");
    check("--max-running 1", Some("2"), model, top, 1);
    check("", Some("2"), model, top, 2);
    check("", Some(""), model, top, 3); // an empty variable says nothing
    check("", None, model, top, 3);
    check("", None, "", top, 4);
    check("", None, "", "", 128);
}

#[test]
fn a_models_own_length_is_told_from_that_of_all() {
    let world = World::new();
    let check = |line: &str, model: &str, top: &str, expected: (Option<usize>, bool)| {
        let file = format!("{top}\n[[model]]\nsource = \"a.gguf\"\n{model}");
        let config = world.resolve(line, &[], Some(&file)).unwrap();
        let model = &config.models[0];
        assert_eq!((model.max_model_len, model.max_model_len_own), expected);
    };
    let (model, top) = ("max-model-len = 300", "max-model-len = 400");
    check("", model, top, (Some(300), true));
    check("", "", top, (Some(400), false));
    check("--max-model-len 500", model, top, (Some(500), false));
    check("", "", "", (None, false));
}

#[test]
fn every_setting_is_read_from_every_place() {
    let world = World::new();
    let settings = [
        ("host", "::1"),
        ("port", "9000"),
        ("data-dir", "/data"),
        ("drain-timeout", "7"),
        ("threads", "2"),
        ("isa", "portable"),
        ("log-format", "json"),
        ("log", "warn"),
        ("dtype", "bf16"),
        ("kv-dtype", "f32"),
        ("kv-cache-memory", "64M"),
        ("max-model-len", "512"),
        ("max-running", "5"),
        ("max-batch-tokens", "600"),
    ];
    let flags: String = settings
        .iter()
        .map(|(k, v)| format!("--{k} {v} "))
        .collect::<Vec<_>>()
        .concat();
    let names: Vec<String> = settings
        .iter()
        .map(|(key, _)| format!("KOMA_{}", key.to_uppercase().replace('-', "_")))
        .collect();
    let variables: Vec<(&str, &str)> = names
        .iter()
        .zip(settings)
        .map(|(name, (_, value))| (name.as_str(), value))
        .collect();
    let file: String = settings
        .iter()
        .map(|(k, v)| format!("{k} = \"{v}\"\n"))
        .collect::<Vec<_>>()
        .concat();
    let by_flags = world
        .resolve(&format!("@a.gguf {flags}"), &[], None)
        .unwrap();
    let by_variables = world.resolve("@a.gguf", &variables, None).unwrap();
    let by_file = world.resolve("@a.gguf", &[], Some(&file)).unwrap();
    assert_eq!(by_flags, by_variables);
    assert_eq!(by_flags, by_file);
    assert_eq!(by_flags.host, "::1");
    assert_eq!(by_flags.port, 9000);
    assert_eq!(by_flags.data_dir, Some(PathBuf::from("/data")));
    assert_eq!(by_flags.drain_timeout, Duration::from_secs(7));
    assert_eq!(by_flags.process.threads, 2);
    assert_eq!(by_flags.process.isa, Isa::Portable);
    assert_eq!(by_flags.process.log_format, LogFormat::Json);
    assert_eq!(by_flags.process.log_filter, "warn");
    let model = &by_flags.models[0];
    assert_eq!((model.dtype, model.kv_dtype), (Dtype::Bf16, KvDtype::F32));
    assert_eq!(model.kv_cache_bytes, Some(64 << 20));
    assert_eq!(model.max_model_len, Some(512));
    assert_eq!((model.max_running, model.max_batch_tokens), (5, Some(600)));
}

#[test]
fn wrong_flags_and_variables_are_named_with_what_is_allowed() {
    let world = World::new();
    let check = |flags: &str, variables: &[(&str, &str)], parts: &[&str]| {
        let error = world.error(&format!("@a.gguf {flags}"), variables, None);
        for part in parts {
            assert!(error.contains(part), "`{part}` in `{error}`");
        }
    };
    let range = "a whole number from 0 to 65535";
    check("--port 70000", &[], &["--port", "`70000`", range]);
    check("--port=-1", &[], &["--port", range]);
    let by_kubernetes = ("KOMA_PORT", "tcp://10.0.0.1:80");
    let parts = ["KOMA_PORT", range, "enableServiceLinks"];
    check("", &[by_kubernetes], &parts);
    check("--config @none.toml", &[], &["--config", "none.toml"]);
    check("--threads 0", &[], &["--threads", "1 to 1024"]);
    check(
        "--dtype int4",
        &[],
        &["--dtype", "auto, f32, bf16, int8, fp8"],
    );
    check(
        "--kv-dtype q8",
        &[],
        &["--kv-dtype", "`q8`", "auto, f32, bf16, int8, f16, fp8-e4m3"],
    );
    check("--isa sse", &[], &["--isa", "auto, portable"]);
    check("--host a/b", &[], &["--host", "without port"]);
    check("--log a=b=c", &[], &["--log", "debug"]);
    check("--kv-cache-memory 5X", &[], &["--kv-cache-memory", "2GiB"]);
    check("--max-model-len 0", &[], &["--max-model-len", "from 1"]);
}

#[test]
fn wrong_keys_and_values_of_the_file_are_named_with_what_is_allowed() {
    let world = World::new();
    let check = |file: &str, parts: &[&str]| {
        let error = world.error("", &[], Some(file));
        for part in parts {
            assert!(error.contains(part), "`{part}` in `{error}`");
        }
    };
    let model = "[[model]]\nname = \"x\"\nsource = \"a.gguf\"\n";
    let top = |line: &str, parts: &[&str]| check(&format!("{line}\n{model}"), parts);
    top("port = 1.5", &["koma.toml: port", "`1.5`", "0 to 65535"]);
    top("port = true", &["koma.toml: port", "boolean"]);
    top("prot = 1", &["koma.toml: prot", "no such key", "port"]);
    top("port =", &["koma.toml", "line 1"]);
    let own = |line: &str, parts: &[&str]| check(&format!("{model}{line}"), parts);
    own("port = 1", &["model `x`: port", "no such key", "class"]);
    own(
        "class = \"fast\"",
        &["model `x`: class", "latency, throughput"],
    );
    own("max-running = 0", &["model `x`: max-running", "from 1"]);
    check(
        "[[model]]\nname = \"x\"",
        &["model `x`", "`source` is missing"],
    );
    check("model = 1", &["[[model]]"]);
}

#[test]
fn names_come_from_the_user_or_the_source() {
    let world = World::new();
    let check = |line: &str, expected: &[&str]| {
        let config = world.resolve(line, &[], None).unwrap();
        let names: Vec<&str> = config.models.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, expected, "{line}");
    };
    check("@a.gguf @folder.v1", &["a", "folder.v1"]);
    check("two=@folder.v1 one=@a.gguf", &["two", "one"]);
    check("owner/some-model", &["some-model"]);
    check("team/chat=owner/some-model", &["team/chat"]);
    fs::write(world.path("x=y.gguf"), "").unwrap();
    check("name=@x=y.gguf", &["name"]);
    let whole = world.error("@x=y.gguf", &[], None);
    assert!(whole.contains("`x=y` cannot be the name"), "{whole}");

    let error = |line: &str, part: &str| {
        let error = world.error(line, &[], None);
        assert!(error.contains(part), "`{part}` in `{error}`");
    };
    error("@a.gguf a=@b.gguf", "two models have the name `a`");
    error("a=@a.gguf a=@a.gguf", "two models have the name `a`");
    error("x=", "source is missing");
    error("=@a.gguf", "cannot be the name");
    error("@none.gguf", "none.gguf");
}

#[test]
fn models_come_from_the_first_place_that_names_any() {
    let world = World::new();
    let names = |line: &str, variables: &[(&str, &str)], file: Option<&str>| {
        let config = world.resolve(line, variables, file).unwrap();
        let names: Vec<String> = config.models.into_iter().map(|m| m.name).collect();
        names.join(" ")
    };
    let file = Some("[[model]]\nname = \"f\"\nsource = \"folder.v1\"\nclass = \"latency\"");
    let variable = [("KOMA_MODELS", "v=@a.gguf, w=@b.gguf,")];
    assert_eq!(names("p=@a.gguf", &variable, file), "p");
    assert_eq!(names("", &variable, file), "v w");
    assert_eq!(names("", &[], file), "f");
    let config = world.resolve("", &[], file).unwrap();
    assert_eq!(config.models[0].class, Some(Class::Latency));
    assert!(config.models[0].root.ends_with("folder.v1"));
    let by_variable = [("KOMA_CONFIG", "@koma.toml")];
    assert_eq!(names("", &by_variable, None), "f");
}

#[test]
fn without_a_source_sagemakers_folder_is_served_to_everybody() {
    let world = World::new();
    let error = world.error("", &[], None);
    assert!(error.contains("no model is given"), "{error}");

    let folder = PathBuf::from(world.path("sagemaker"));
    fs::write(folder.join("notes.txt"), "").unwrap();
    let error = world.error("", &[], None);
    assert!(error.contains("holds no model"), "{error}");

    for name in ["rerank", "chat"] {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("config.json"), "{}").unwrap();
    }
    fs::write(folder.join("b.gguf"), "").unwrap();
    fs::create_dir_all(folder.join("code")).unwrap();
    let config = world.resolve("", &[], None).unwrap();
    let names: Vec<&str> = config.models.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["b", "chat", "rerank"]);
    assert_eq!((config.host.as_str(), config.port), ("0.0.0.0", 8080));

    // One model in parts, what belongs to another, and folders in folders.
    for name in [
        "b-mmproj.gguf",
        "big-00001-of-00002.gguf",
        "big-00002-of-00002.gguf",
        "deep/er/x.gguf",
        "two/x.gguf",
        "two/y.gguf",
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    let config = world.resolve("", &[], None).unwrap();
    let names: Vec<&str> = config.models.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["b", "big", "chat", "deep", "rerank"]);

    fs::write(folder.join("config.json"), "{}").unwrap();
    let config = world.resolve("", &[], None).unwrap();
    assert_eq!(config.models.len(), 1);
    assert_eq!(config.models[0].name, "sagemaker");
    let set = world
        .resolve("", &[("KOMA_HOST", "127.0.0.1")], None)
        .unwrap();
    assert_eq!(set.host, "127.0.0.1");
    let named = world.resolve("@a.gguf", &[], None).unwrap();
    assert_eq!(named.host, "127.0.0.1");
}

#[test]
fn the_cache_is_exact_where_the_weights_are() {
    let world = World::new();
    let check = |flags: &str, expected| {
        let config = world
            .resolve(&format!("@a.gguf {flags}"), &[], None)
            .unwrap();
        assert_eq!(config.models[0].kv_dtype, expected, "{flags}");
    };
    check("", KvDtype::Bf16);
    check("--dtype bf16", KvDtype::Bf16);
    check("--dtype f32", KvDtype::F32);
    check("--dtype f32 --kv-dtype auto", KvDtype::F32);
    check("--dtype f32 --kv-dtype bf16", KvDtype::Bf16);
    check("--kv-dtype f32", KvDtype::F32);
    check("--kv-dtype int8", KvDtype::Int8);
    check("--kv-dtype f16", KvDtype::F16);
    check("--kv-dtype fp8-e4m3", KvDtype::Fp8);
    check("--dtype f32 --kv-dtype int8", KvDtype::Int8);
}

#[test]
fn sizes() {
    let check = |text, expected| assert_eq!(parse_size(text), expected, "{text}");
    check("1", Some(1));
    check("512M", Some(512 << 20));
    check("512m", Some(512 << 20));
    check("2GiB", Some(2 << 30));
    check("2 GiB", Some(2 << 30));
    check("1.5K", Some(1536));
    check("3GB", Some(3_000_000_000));
    check("1TiB", Some(1 << 40));
    check("100b", Some(100));
    for wrong in [
        "",
        "M",
        "0",
        "0M",
        "-1M",
        "1.5",
        "1,5G",
        "5X",
        "1e3",
        "nan",
        "9999999TiB",
        "1..5M",
    ] {
        check(wrong, None);
    }
}

#[test]
fn the_description_holds_all_of_it_in_json() {
    let config = World::new()
        .resolve("x=@a.gguf --max-running 9", &[], None)
        .unwrap();
    let text = config.describe().to_string();
    for part in [
        "\"name\":\"x\"",
        "\"max_running\":9",
        "\"port\":8080",
        "\"dtype\":\"auto\"",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_computes_is_told_for_all_models_or_for_one() {
    let world = World::new();
    let device = |line: &str, variables: &[(&str, &str)], file: Option<&str>| {
        let config = world.resolve(line, variables, file).unwrap();
        config.models[0].device.clone()
    };
    let none = DeviceConfig {
        choice: DeviceChoice::Cpu,
        gpu_memory: 900,
        graphs: true,
        artifact: None,
        library: None,
    };
    assert_eq!(device("@a.gguf", &[], None), none);
    let given = DeviceConfig {
        choice: DeviceChoice::Neuron,
        gpu_memory: 900,
        graphs: true,
        artifact: Some(world.path("export").into()),
        library: Some(world.path("libnrt.so.1").into()),
    };
    let line = "@a.gguf --device neuron --neuron @export --neuron-library @libnrt.so.1";
    assert_eq!(device(line, &[], None), given);
    let variables = [
        ("KOMA_DEVICE", "neuron"),
        ("KOMA_NEURON", "@export"),
        ("KOMA_NEURON_LIBRARY", "@libnrt.so.1"),
    ];
    assert_eq!(device("@a.gguf", &variables, None), given);
    // In a file it is relative to the file, and a model's own.
    let file = "neuron-library = \"libnrt.so.1\"\n[[model]]\nsource = \"a.gguf\"\ndevice = \"neuron\"\nneuron = \"export\"\n\
                [[model]]\nsource = \"b.gguf\"\n";
    let config = world.resolve("", &[], Some(file)).unwrap();
    assert_eq!(config.models[0].device, given);
    let second = &config.models[1].device;
    assert_eq!(
        (second.choice, &second.artifact),
        (DeviceChoice::Cpu, &None)
    );
    let auto = device("@a.gguf --device auto", &variables, None);
    assert_eq!(auto.choice, DeviceChoice::Auto);

    for (name, number) in [("cuda", 0), ("cuda:3", 3)] {
        let line = "--gpu-memory-utilization 0.5 --cuda-graphs off";
        let cuda = device(&format!("@a.gguf --device {name} {line}"), &[], None);
        let chosen = (cuda.choice, cuda.gpu_memory, cuda.graphs);
        assert_eq!(chosen, (DeviceChoice::Cuda(number), 500, false));
    }
    let error = world.error("@a.gguf --gpu-memory-utilization 1.1", &[], None);
    assert!(error.contains("from 0.001 to 1"), "{error}");
    let error = world.error("@a.gguf --device gpu", &[], None);
    assert!(
        error.contains("--device") && error.contains("cpu, neuron, auto"),
        "{error}"
    );
    for (line, variables) in [
        ("@a.gguf @b.gguf --neuron x", &[][..]),
        ("@a.gguf @b.gguf", &[("KOMA_NEURON", "x")][..]),
    ] {
        let error = world.error(line, variables, None);
        assert!(
            error.contains("there are 2") && error.contains("[[model]]"),
            "{error}"
        );
    }
}
