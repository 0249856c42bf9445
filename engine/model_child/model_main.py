"""Runs a model: in its own environment and box, as `python model_main.py`, told what to do by `WORKBENCH_JOB` (JSON).

The model's files are copied to the working folder, what blankly wants to find there is added, and the script runs as
`__main__`. For a backtest, the first strategy that it made is then asked for `.backtest(**args)`. Live, the process
stays until the model's threads end. Exit code 0, the script's own, or 1 with the traceback on stderr. Any Python from
3.8 on.
"""

import json
import os
import runpy
import shutil
import signal
import sys
import threading
import time
import traceback

import slate_address  # beside this file

BEAT = 5.0  # seconds
DEFAULTS = {
    "settings.json": {"settings": {"use_sandbox_websockets": False, "websocket_buffer_size": 10000,
                                   "test_connectivity_on_auth": False, "auto_truncate": False}},
    "backtest.json": {"price_data": {"assets": []}, "settings": {
        "use_price": "close", "smooth_prices": False, "GUI_output": False, "show_tickers_with_zero_delta": False,
        "save_initial_account_value": True, "show_progress_during_backtest": True, "cache_location": "./price_caches",
        "continuous_caching": True, "resample_account_value_for_metrics": "1d", "quote_account_value_in": "USD",
        "ignore_user_exceptions": True, "risk_free_return_rate": 0.0, "benchmark_symbol": None}},
    "keys.json": {},
}


def prepare(job):
    """Copy the model to where it may write, and make its script's surroundings what it expects."""
    if job["model"] != job["work"]:
        for folder, _, names in os.walk(job["model"]):
            target = os.path.join(job["work"], os.path.relpath(folder, job["model"]))
            os.makedirs(target, exist_ok=True)
            for name in names:
                shutil.copyfile(os.path.join(folder, name), os.path.join(target, name))
    folder = os.path.join(job["work"], job.get("folder") or ".")
    os.chdir(folder)
    if job.get("blankly"):
        for name, content in DEFAULTS.items():
            if not os.path.exists(name):
                with open(name, "w") as file:
                    json.dump(content, file)
    sys.path[:0] = [path for path in (os.getcwd(), job["work"]) if path not in sys.path]
    os.environ["BROWSER"] = "true"  # nobody looks at what would open


def run_script(job):
    """The script's globals after it ran; a plain `sys.exit()` in it is a good end."""
    script = os.path.join(job["work"], job["script"])
    sys.argv = [script]
    try:
        return runpy.run_path(script, run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
        return {}


def backtest(job):
    """Ask the model's first strategy for the backtest that was wanted; True when a result was reported."""
    from blankly_external import Reporter, report

    if Reporter.results:
        return True  # the script did it by itself
    if not Reporter.strategies:
        print("workbench: the script made no strategy, so there is nothing to backtest", file=sys.stderr)
        return False
    args = dict(job.get("args") or {})
    if job.get("blankly"):
        args.setdefault("GUI_output", False)
    result = Reporter.strategies[0].backtest(**args)
    if not Reporter.results:
        report("backtest-result", result=result.to_dict() if hasattr(result, "to_dict") else result)
    return True


def beat():
    """Say now and then that the process is alive: one that hangs in native code or is stopped does not."""
    from blankly_external import report

    while True:
        report("beat")
        time.sleep(BEAT)


def wait_for_threads():
    """Stay while the model works in threads of its own."""
    while True:
        threads = [thread for thread in threading.enumerate()
                   if thread is not threading.current_thread() and not thread.daemon]
        if not threads:
            return
        threads[0].join(0.5)


def stop_threads():
    """Ask blankly's strategies to end, as their own signal handlers would."""
    from blankly_external import Reporter

    for strategy in Reporter.strategies:
        try:
            end = getattr(strategy, "teardown", None) or getattr(getattr(strategy, "model", None), "teardown", None)
            if end is not None:
                end()
        except BaseException:
            traceback.print_exc()


def main():
    job = json.loads(os.environ.pop("WORKBENCH_JOB"))
    began = time.time()
    good, words, code = True, "", 1
    try:
        slate_address.install()
        prepare(job)
        if job["kind"] != "backtest":
            threading.Thread(target=beat, name="workbench beat", daemon=True).start()
        run_script(job)
        if job["kind"] == "backtest":
            good = backtest(job)
            words = "" if good else "no result"
        else:
            wait_for_threads()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stop_threads()
    except SystemExit as error:
        good, words = False, f"the script ended with {error.code!r}"
        if isinstance(error.code, int):
            code = error.code & 255 or 1
        else:
            print(error.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        good, words = False, f"{type(error).__name__}: {error}"
    if job["kind"] == "backtest":
        from blankly_external import report

        report("backtest-status", successful=good, status_summary="Completed" if good else "Failed",
               status_details=words, time_elapsed=time.time() - began)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if good else code)  # what is left of threads has had its time


if __name__ == "__main__":
    main()
