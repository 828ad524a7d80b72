"""`python -m pipeline` and the command `image-vectors`: prepare the process, then run the command line."""

from pipeline.core.import_path import leave_out_working_folder


def main() -> None:
    """Run a command."""
    leave_out_working_folder()  # before all other imports
    from pipeline.core.interrupts import end_at_interrupts

    end_at_interrupts()
    from pipeline import cli
    from pipeline.core.standard_streams import keep_results_apart
    from pipeline.core.temporary_folder import use_own_temporary_folder

    keep_results_apart()
    use_own_temporary_folder()
    try:
        cli.main()
    finally:
        end_at_interrupts()


if __name__ == "__main__":
    main()
