//! Flattens `lua/*.lua` (a line `-- @include name` stands for `lua/include/name.lua`) into one
//! Rust table that `store/redis/scripts/mod.rs` embeds, and sets up linking for the Node.js addon.

use std::{env, fmt::Write as _, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=lua");
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let mut names: Vec<String> = fs::read_dir("lua")
        .expect("lua/ exists")
        .filter_map(|entry| {
            let path = entry.expect("lua/ is readable").path();
            (path.extension()? == "lua").then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();

    let mut table = String::new();
    for name in &names {
        let text = flatten(Path::new("lua").join(format!("{name}.lua")).as_path());
        writeln!(
            table,
            "pub const {}: Source = Source {{ name: {name:?}, text: {text:?} }};",
            name.to_uppercase()
        )
        .expect("a String takes any text");
    }
    let all = names
        .iter()
        .map(|n| n.to_uppercase())
        .collect::<Vec<_>>()
        .join(", ");
    writeln!(table, "#[cfg(test)]\npub const ALL: &[Source] = &[{all}];")
        .expect("a String takes any text");
    fs::write(Path::new(&out).join("lua_scripts.rs"), table).expect("OUT_DIR is writable");

    if env::var_os("CARGO_FEATURE_NODE").is_some() {
        napi_build::setup();
    }
}

fn flatten(path: &Path) -> String {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut flat = String::new();
    for line in text.lines() {
        match line.strip_prefix("-- @include ") {
            Some(name) => {
                let include = Path::new("lua/include").join(format!("{}.lua", name.trim()));
                flat.push_str(&flatten(&include));
            }
            None => {
                flat.push_str(line);
                flat.push('\n');
            }
        }
    }
    flat
}
