from pipeline.core.errors import Interrupted, PipelineError, RequestError, cause, first_line


def test_exit_codes() -> None:
    assert (PipelineError.exit_code, RequestError.exit_code, Interrupted.exit_code) == (1, 2, 130)
    assert issubclass(RequestError, ValueError)


def test_causes_are_one_line_without_errno() -> None:
    assert cause(FileNotFoundError(2, "No such file or directory", "/a/b")) == "No such file or directory"
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"
