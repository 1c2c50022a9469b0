//! `quorate model` as a user runs it: from a folder to a signed file to the model that an agent runs.

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use std::{
        fs,
        path::{Path, PathBuf},
        process::{Command, Output, Stdio},
    };

    const SHIPPED: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../models/store/bearing-anomaly-v1"
    );

    struct Desk {
        root: tempfile::TempDir,
        public: String,
    }

    fn quorate(arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn text(output: &Output) -> String {
        let (out, error) = (&output.stdout, &output.stderr);
        String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(error)
    }

    impl Desk {
        /// A key, a folder to pack, and the configuration of a device that believes the key.
        fn new() -> Self {
            let mut desk = Self {
                root: tempfile::tempdir().unwrap(),
                public: String::new(),
            };
            desk.public = desk.ok(&[
                "model",
                "keygen",
                "--output",
                &desk.at("key.pem"),
                "--key-id",
                "plant-1",
            ]);
            fs::create_dir(desk.path("folder")).unwrap();
            for name in ["manifest.toml", "model.onnx", "golden.json"] {
                fs::copy(
                    Path::new(SHIPPED).join(name),
                    desk.path("folder").join(name),
                )
                .unwrap();
            }
            let sensor = |id: &str, base: f64| {
                format!(
                    "[[sensors]]\nid = \"{id}\"\nsource = {{ kind = \"simulated\", base = {base:.1} }}\n\
                     [[quantities]]\nid = \"{id}-q\"\nunit = \"{}\"\nsensors = [\"{id}\"]\n",
                    match id {
                        "t" => "celsius",
                        "v" => "mm/s",
                        _ => "A",
                    }
                )
            };
            let configuration = format!(
                "[device]\nid = \"press-07\"\n{}{}{}[[models]]\nid = \"bearing-anomaly\"\nbundle = \"{SHIPPED}\"\n\
                 inputs = [\"t-q\", \"v-q\", \"a-q\"]\n{}[outbox]\npath = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\n",
                sensor("t", 35.0),
                sensor("v", 1.6),
                sensor("a", 10.0),
                desk.public,
                desk.at("outbox"),
            );
            fs::write(desk.path("q.toml"), configuration).unwrap();
            desk
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn at(&self, name: &str) -> String {
            self.path(name).to_str().unwrap().to_owned()
        }

        fn ok(&self, arguments: &[&str]) -> String {
            let output = quorate(arguments);
            assert!(output.status.success(), "{arguments:?}: {}", text(&output));
            text(&output)
        }

        fn refused(&self, arguments: &[&str], status: i32, expected: &str) {
            let output = quorate(arguments);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
            assert!(said.contains(expected), "`{said}` is without `{expected}`");
        }

        fn change(&self, from: &str, to: &str) {
            let path = self.path("folder/manifest.toml");
            let manifest = fs::read_to_string(&path).unwrap();
            assert!(manifest.contains(from), "{from}");
            fs::write(path, manifest.replacen(from, to, 1)).unwrap();
        }

        /// Packs the folder as this release.
        fn pack(&self, release: u64) -> String {
            let path = self.path("folder/manifest.toml");
            let manifest = fs::read_to_string(&path).unwrap();
            let lines = manifest.lines().map(|line| match line {
                line if line.starts_with("release") => format!("release = {release}\n"),
                line => format!("{line}\n"),
            });
            fs::write(&path, lines.collect::<String>()).unwrap();
            let file = self.at(&format!("{release}.qmodel"));
            self.ok(&self.pack_arguments(&self.at("folder"), "plant-1", &file));
            file
        }

        fn pack_arguments<'a>(&self, folder: &'a str, id: &'a str, file: &'a str) -> [&'a str; 10] {
            let key = Box::leak(self.at("key.pem").into_boxed_str());
            [
                "model", "pack", "--folder", folder, "--key", key, "--key-id", id, "--output", file,
            ]
        }

        fn stage(&self, file: &str) -> String {
            self.ok(&["model", "stage", file, "--config", &self.at("q.toml")])
        }

        fn step(&self, verb: &str) -> String {
            self.ok(&["model", verb, "--config", &self.at("q.toml")])
        }
    }

    #[test]
    fn a_model_is_packed_checked_staged_promoted_and_rolled_back() {
        let desk = Desk::new();
        let first = desk.pack(2);
        let bytes = fs::read(&first).unwrap();
        let again = desk.at("again.qmodel");
        desk.ok(&desk.pack_arguments(&desk.at("folder"), "plant-1", &again));
        assert_eq!(
            fs::read(&again).unwrap(),
            bytes,
            "a second pack is the same"
        );
        let config = desk.at("q.toml");

        let said = desk.ok(&["model", "check", &first, "--config", &config]);
        assert!(said.contains("signature of plant-1 is right"), "{said}");
        assert!(
            said.contains("release 2") && said.contains("passes: "),
            "{said}"
        );
        let said = desk.ok(&["model", "check", &first]);
        assert!(said.contains("NOT CHECKED"), "{said}");
        let said = desk.ok(&["model", "check", SHIPPED]);
        assert!(said.contains("folder, not signed"), "{said}");

        desk.refused(
            &["model", "promote", "--config", &config],
            2,
            "no tested model is staged",
        );
        let said = desk.stage(&first);
        assert!(said.contains("staged: release 2"), "{said}");
        let said = desk.step("promote");
        assert!(said.contains("active release 2"), "{said}");
        assert!(
            desk.ok(&["check", "--config", &config])
                .contains("golden vectors pass")
        );
        let older = desk.pack(1);
        desk.refused(
            &["model", "stage", &older, "--config", &config],
            2,
            "release 1 is not above release 2",
        );
        desk.ok(&[
            "model",
            "stage",
            &older,
            "--config",
            &config,
            "--allow-downgrade",
        ]);
        let said = desk.step("rollback");
        assert!(said.contains("active the configured bundle"), "{said}");
        let json = desk.ok(&["model", "status", "--config", &config, "--json"]);
        assert!(json.contains("\"cause\":\"command\""), "{json}");
    }

    #[test]
    fn a_file_is_run_only_when_a_pinned_key_signed_it() {
        let desk = Desk::new();
        let config = desk.at("q.toml");
        let file = desk.pack(2);
        let stage = |path: &str, expected: &str| {
            desk.refused(&["model", "stage", path, "--config", &config], 2, expected);
        };
        let good = fs::read(&file).unwrap();
        let other = desk.at("other.pem");
        desk.ok(&["model", "keygen", "--output", &other]);
        let forged = desk.at("forged.qmodel");
        for (id, cause) in [("plant-1", "(wrong-signature)"), ("evil", "(unknown-key)")] {
            desk.ok(&[
                "model", "sign", &file, "--key", &other, "--key-id", id, "--output", &forged,
            ]);
            stage(&forged, cause);
        }
        let bad = desk.at("bad.qmodel");
        let mut damaged = good.clone();
        *damaged.last_mut().unwrap() ^= 1;
        for (bytes, cause) in [
            (&good[..good.len() - 1], "(truncated)"),
            (&damaged, "(foreign-part)"),
            (b"nothing", "(not-a-package)"),
        ] {
            fs::write(&bad, bytes).unwrap();
            stage(&bad, cause);
        }
        stage(&desk.at("folder"), "not a regular file");
        // Named by the configuration, it is judged all the same.
        let configuration = fs::read_to_string(&config).unwrap();
        let named = |path: &str| {
            fs::write(&config, configuration.replace(SHIPPED, path)).unwrap();
            quorate(&["check", "--config", &config])
        };
        assert!(named(&file).status.success());
        let output = named(&forged);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            text(&output).contains("no key of this device"),
            "{}",
            text(&output)
        );
        // Signed by a pinned key, and still not for this device.
        fs::write(&config, &configuration).unwrap();
        desk.change("unit = \"A\"", "unit = \"V\"");
        stage(&desk.pack(3), "trained on motor-current in `V`");
        desk.change("release = 3", "release = 3\nagent_version_min = \"99.0.0\"");
        stage(&desk.pack(4), "agent_version_min");
    }

    /// Fields of protobuf, as far as a small model needs them.
    fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![field << 3 | 2];
        let mut length = value.len();
        while length >= 0x80 {
            out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        out.push(u8::try_from(length).unwrap());
        [out, value.to_vec()].concat()
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn node(operator: &str, inputs: &[&str], output: &str, axes: &[u8]) -> Vec<u8> {
        let mut node: Vec<u8> = inputs
            .iter()
            .flat_map(|it| bytes(1, it.as_bytes()))
            .collect();
        node.extend(bytes(2, output.as_bytes()));
        node.extend(bytes(4, operator.as_bytes()));
        if !axes.is_empty() {
            let values: Vec<u8> = axes.iter().flat_map(|axis| number(8, *axis)).collect();
            let axes = [bytes(1, b"axes"), values, vec![0xa0, 0x01, 7]].concat();
            let keep = [bytes(1, b"keepdims"), number(3, 0), vec![0xa0, 0x01, 2]].concat();
            node.extend(bytes(5, &axes));
            node.extend(bytes(5, &keep));
        }
        bytes(1, &node)
    }

    fn value(name: &str, shape: &[u8]) -> Vec<u8> {
        let dimensions: Vec<u8> = shape
            .iter()
            .flat_map(|it| bytes(1, &number(1, *it)))
            .collect();
        let tensor = [number(1, 1), bytes(2, &dimensions)].concat();
        [bytes(1, name.as_bytes()), bytes(2, &bytes(1, &tensor))].concat()
    }

    /// A model whose score is the mean square of its window, plus the mean of a constant of 2^29 numbers.
    fn glutton() -> Vec<u8> {
        let shape = [
            number(1, 1),
            number(2, 7),
            bytes(8, b"shape"),
            bytes(9, &(1_u64 << 29).to_le_bytes()),
        ]
        .concat();
        let graph = [
            node("Mul", &["window", "window"], "square", &[]),
            node("ReduceMean", &["square"], "mean", &[1, 2]),
            node("ConstantOfShape", &["shape"], "huge", &[]),
            node("ReduceMean", &["huge"], "zero", &[0]),
            node("Add", &["mean", "zero"], "score", &[]),
            bytes(2, b"glutton"),
            bytes(5, &shape),
            bytes(11, &value("window", &[1, 4, 1])),
            bytes(12, &value("score", &[1])),
        ]
        .concat();
        [number(1, 8), bytes(8, &number(2, 17)), bytes(7, &graph)].concat()
    }

    #[test]
    fn a_model_that_takes_all_memory_ends_its_trial_alone() {
        use sha2::Digest as _;
        let desk = Desk::new();
        let onnx = glutton();
        let digest: String = sha2::Sha256::digest(&onnx)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let manifest = format!(
            "format = 1\nid = \"glutton\"\nversion = \"1\"\nrelease = 1\nlicence = \"MIT\"\nonnx_sha256 = \"{digest}\"\n\
             onnx_bytes = {}\npreprocessing = \"none\"\nwindow = {{ length = 4, period_ms = 1000 }}\n\
             inputs = [{{ quantity = \"q\", unit = \"m\", range = [0.0, 9.0], mean = 0.0, scale = 1.0 }}]\n\
             outputs = [{{ name = \"score\", meaning = \"m\", threshold = 1.0 }}]\n[training]\nscript = \"s\"\nseed = 1\n\
             data = \"d\"\nfigures = {{ f1 = 1.0, false_alarms_percent = 0.0, missed_percent = 0.0 }}\n",
            onnx.len()
        );
        let vector = "{\"name\":\"v\",\"input\":[1,1,1,1],\"outputs\":[1]}";
        let golden = format!(
            "{{\"format\":1,\"tolerance\":{{\"absolute\":1e-6,\"relative\":1e-5}},\"vectors\":[{}]}}",
            [vector; 32].join(",")
        );
        fs::write(desk.path("folder/manifest.toml"), manifest).unwrap();
        fs::write(desk.path("folder/model.onnx"), onnx).unwrap();
        fs::write(desk.path("folder/golden.json"), golden).unwrap();
        let folder = desk.at("folder");
        desk.refused(&["model", "check", &folder], 1, "out-of-memory");
        let file = desk.at("glutton.qmodel");
        desk.refused(
            &desk.pack_arguments(&folder, "plant-1", &file),
            2,
            "out-of-memory",
        );
        assert!(!Path::new(&file).exists());
    }

    #[test]
    fn budgets_that_are_passed_are_named() {
        let desk = Desk::new();
        desk.change("[window]", "[budgets]\nmemory_bytes_max = 1\n[window]");
        desk.refused(
            &["model", "check", &desk.at("folder")],
            1,
            "over-budget: memory_bytes",
        );
        desk.change("memory_bytes_max = 1", "p99_us_max = 60000000");
        desk.ok(&["model", "check", &desk.at("folder")]);
    }
}
