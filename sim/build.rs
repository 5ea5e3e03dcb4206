//! Compiles what the C client decides, checks and says, for `src/c_client.rs`, with the same
//! warnings as `client-c/Makefile`.

const SOURCES: [&str; 6] = ["machine", "helper", "request", "wire", "orders", "order_wire"];

fn main() {
    let makefile = std::fs::read_to_string("../client-c/Makefile").unwrap_or_default();
    let warnings = makefile.lines().find_map(|line| line.strip_prefix("WARNINGS := "));
    let warnings = warnings.expect("client-c/Makefile has a line of WARNINGS");
    let mut build = cc::Build::new();
    build.std("c11").warnings(false).include("../client-c/src").include("../client-c/include");
    for warning in warnings.split_whitespace() {
        build.flag(warning);
    }
    for source in SOURCES {
        build.file(format!("../client-c/src/{source}.c"));
    }
    build.file("src/c_client.c").compile("rocker_client_decides");
    println!("cargo::rerun-if-changed=src/c_client.c");
    println!("cargo::rerun-if-changed=../client-c/src");
    println!("cargo::rerun-if-changed=../client-c/include");
    println!("cargo::rerun-if-changed=../client-c/Makefile");
}
