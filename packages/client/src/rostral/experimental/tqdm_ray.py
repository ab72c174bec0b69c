"""Progress bars under the name that Ray's users know; `rostral.util.tqdm` is the same."""

from rostral.progress import tqdm

__all__ = ["safe_print", "tqdm"]

# Whatever is printed comes above the bars.
safe_print = print
