//! What the first half hour on a GPU answers: whether every kernel and the tiny models give there what they give here, and how fast
//! it is beside what the device could do. `scripts/gpu-check` packs this with a server and models into one archive.
//!
//!     gpu-check FOLDER [--tiny] [--device N] [--only SECTION]... [--line LINE]...
//!
//! FOLDER holds `koma` and `models/`; `report.json` and `report.md` are written there, and in `worst.txt` the three lines of `speed`
//! that are farthest from their floors. `--tiny`: small shapes, so that it ends on a stand-in of the driver, where no time means
//! anything. Sections: kernels, models, speed, serving. `--line`: of `speed`, these lines alone.

#![expect(clippy::print_stderr, reason = "a program that a person runs")]

mod kernels;
mod models;
mod parts;
mod serving;
mod speed;

use koma_kernels::cuda::Gpu;
use koma_kernels::{Class, Cx, Isa, Team};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// What was asked for.
struct Asked {
    folder: PathBuf,
    tiny: bool,
    device: usize,
    only: Vec<String>,
    lines: Vec<String>,
}

impl Asked {
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut asked = Self {
            folder: PathBuf::new(),
            tiny: false,
            device: 0,
            only: Vec::new(),
            lines: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--tiny" => asked.tiny = true,
                "--device" => {
                    let number = value()?;
                    asked.device = number.parse().map_err(|_| format!("no device {number}"))?;
                }
                "--only" => asked.only.push(value()?),
                "--line" => asked.lines.push(value()?),
                _ => asked.folder = PathBuf::from(argument),
            }
        }
        if asked.folder.join("models").is_dir() {
            Ok(asked)
        } else {
            Err(
                "gpu-check FOLDER [--tiny] [--device N] [--only kernels|models|speed|serving] [--line LINE]"
                    .to_owned(),
            )
        }
    }

    fn wants(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == section)
    }
}

/// A context on the processor, in plain Rust, and one on the device.
struct Pair {
    cpu: Cx,
    gpu: Cx,
}

impl Pair {
    fn new(gpu: &Arc<Gpu>) -> Result<Self, koma_kernels::Error> {
        let cx = || Cx::new(Arc::new(Team::new(1)), Class::Throughput, Isa::Portable);
        Ok(Self {
            cpu: cx(),
            gpu: cx().on(gpu)?,
        })
    }
}

/// One line of a section: what, whether it is right (none if that is not the question), and figures.
struct Line {
    what: String,
    right: Option<bool>,
    figures: Vec<(&'static str, f64)>,
}

impl Line {
    fn json(&self) -> Value {
        let mut line = json!({ "what": self.what });
        if let Some(right) = self.right {
            line["right"] = right.into();
        }
        for (name, figure) in &self.figures {
            line[*name] = (*figure).into();
        }
        line
    }

    fn text(&self) -> String {
        let right = match self.right {
            Some(true) => "right",
            Some(false) => "**WRONG**",
            None => "",
        };
        let figure = |(name, figure): &(&str, f64)| {
            if figure.abs() < 0.01 && *figure != 0.0 {
                format!("{name} {figure:.1e}")
            } else {
                format!("{name} {figure:.3}")
            }
        };
        let figures: Vec<String> = self.figures.iter().map(figure).collect();
        format!("| {} | {right} | {} |\n", self.what, figures.join(", "))
    }
}

fn run(asked: &Asked) -> Result<bool, Box<dyn std::error::Error>> {
    let found = Gpu::found()?;
    let info = found.get(asked.device).ok_or("there is no such device")?;
    let gpu = Gpu::open(asked.device, 0.9)?;
    let mut report = json!({
        "device": info.name,
        "capability": format!("{}.{}", info.capability.0, info.capability.1),
        "memory": info.memory,
        "usable": gpu.memory().1,
        "tiny": asked.tiny,
    });
    let mut page = format!(
        "# {}, compute capability {}.{}, {} bytes\n",
        info.name, info.capability.0, info.capability.1, info.memory
    );
    if asked.tiny {
        page += "\nSmall shapes: the times say nothing.\n";
    }
    let pair = Pair::new(&gpu)?;
    let mut good = true;
    for section in ["kernels", "models", "speed", "serving"] {
        if !asked.wants(section) {
            continue;
        }
        eprintln!("{section} ...");
        let lines = match section {
            "kernels" => kernels::check(&pair)?,
            "models" => models::check(&asked.folder, &gpu)?,
            "speed" => {
                let lines = speed::measure(&pair.gpu, asked.tiny, &asked.lines)?;
                let worst = speed::worst(&lines).join("\n") + "\n";
                std::fs::write(asked.folder.join("worst.txt"), worst)?;
                lines
            }
            _ => serving::measure(&asked.folder, asked.device, asked.tiny)?,
        };
        good &= lines.iter().all(|line| line.right != Some(false));
        page.extend([
            "\n## ",
            section,
            "\n\n| what | | figures |\n|---|---|---|\n",
        ]);
        page.extend(lines.iter().map(Line::text));
        report[section] = lines.iter().map(Line::json).collect();
        write(&asked.folder, &report, &page)?;
    }
    Ok(good)
}

/// After every section, so that what is known stays known.
fn write(folder: &Path, report: &Value, page: &str) -> std::io::Result<()> {
    std::fs::write(folder.join("report.json"), format!("{report:#}\n"))?;
    std::fs::write(folder.join("report.md"), page)
}

fn main() -> ExitCode {
    let done = Asked::of(std::env::args().skip(1)).map_err(Into::into);
    match done.and_then(|asked| run(&asked)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("something is wrong: see report.md");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("gpu-check: {error}");
            ExitCode::from(2)
        }
    }
}
