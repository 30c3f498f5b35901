//! Flattens the scripts of `lua/`, `lua/v1/` and `lua/slotted/` (a line `-- @include name` stands for
//! `lua/include/name.lua`) into one Rust table that `store/redis/scripts/mod.rs` embeds, and sets up
//! linking for the Node.js addon.

use std::{collections::BTreeSet, env, fmt::Write as _, fs, path::Path};

const ANY_TEXT: &str = "a String takes any text";

fn main() {
    println!("cargo:rerun-if-changed=lua");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let mut tables = String::new();
    let mut all = Vec::new();
    for (module, folder) in [
        ("shared", "lua"),
        ("v1", "lua/v1"),
        ("slotted", "lua/slotted"),
    ] {
        writeln!(tables, "pub mod {module} {{\n    use super::Source;").expect(ANY_TEXT);
        for name in scripts_in(folder) {
            let path = format!("{folder}/{name}.lua");
            let text = flatten(Path::new(&path), &mut BTreeSet::new());
            let constant = name.to_uppercase();
            writeln!(
                tables,
                "    pub const {constant}: Source = Source {{ name: {name:?}, path: {path:?}, text: {text:?} }};"
            )
            .expect(ANY_TEXT);
            all.push(format!("{module}::{constant}"));
        }
        tables.push_str("}\n");
    }
    let all = all.join(", ");
    writeln!(tables, "#[cfg(test)]\npub const ALL: &[Source] = &[{all}];").expect(ANY_TEXT);
    fs::write(Path::new(&out).join("lua_scripts.rs"), tables).expect("OUT_DIR is writable");

    if env::var_os("CARGO_FEATURE_NODE").is_some() {
        napi_build::setup();
    }
}

/// The names of the scripts of a folder, without `.lua`.
fn scripts_in(folder: &str) -> BTreeSet<String> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{folder}: {error}"))
        .filter_map(|entry| {
            let path = entry.expect("lua/ is readable").path();
            (path.extension()? == "lua").then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect()
}

/// A script with what it includes, each once: where it is included first.
fn flatten(path: &Path, included: &mut BTreeSet<String>) -> String {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut flat = String::new();
    for line in text.lines() {
        match line.strip_prefix("-- @include ").map(str::trim) {
            Some(name) if included.insert(name.to_owned()) => {
                let include = Path::new("lua/include").join(format!("{name}.lua"));
                flat.push_str(&flatten(&include, included));
            }
            Some(_) => {}
            None => {
                flat.push_str(line);
                flat.push('\n');
            }
        }
    }
    flat
}
