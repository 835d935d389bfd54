"""A progress bar over a share from 0 to 1: tqdm's where it is installed, else plain lines."""
# SPDX-License-Identifier: Apache-2.0

import sys
import time

PLAIN_INTERVAL = 5.0  # seconds between plain lines


def duration(seconds):
    """Minutes and seconds, as 1:05, or hours as 2:01:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Shows how far a run is on stderr, and what it says about itself.

    Parameters
    ----------
    label : str
        Stands before the bar.
    start : float
        Share that was done before, by an earlier run.
    """

    def __init__(self, label, start=0.0):
        self._label = label
        self._start = start
        self._began = time.monotonic()
        self._shown = -PLAIN_INTERVAL
        try:
            from tqdm import tqdm
        except ImportError:
            self._bar = None
        else:
            self._bar = tqdm(
                total=1.0,
                initial=start,
                bar_format=label + " {percentage:3.0f}%|{bar:20}| {desc}",
                dynamic_ncols=True,
                mininterval=0.2,
            )

    def set(self, share, text=""):
        """Show that `share` is done, and a line of text."""
        elapsed = time.monotonic() - self._began
        done = share - self._start
        if done > 0:
            text = f"{text}  {duration(elapsed / done * (1 - share))} left".strip()
        if self._bar is not None:
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(share - self._bar.n)
        elif elapsed - self._shown >= PLAIN_INTERVAL:
            self._shown = elapsed
            print(f"{self._label} {share:4.0%}  {text}", file=sys.stderr, flush=True)

    def write(self, text):
        """Print a line of its own on stdout, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar is not None:
            self._bar.close()
