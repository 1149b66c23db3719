//! The `ultra` binary.

fn main() -> std::process::ExitCode {
    ultra::cli::main()
}
