//! A copy of `ultra` that belongs to this package, so that cargo builds it before the tests run.

fn main() -> std::process::ExitCode {
    ultra::cli::main()
}
