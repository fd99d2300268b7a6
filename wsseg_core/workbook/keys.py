"""Keys pressed in an explorer are the explorer's own.

JupyterLab acts on keys before the control that has the focus: an arrow moves to the next cell, a letter is a command.
It leaves alone an element with a certain attribute of its own. No widget sets that from Python; a line of script does.
"""

import ipywidgets

EXPLORER = "wsseg-explorer"  # class of the boxes whose controls keep their keys
SCRIPT = (
    f"window.addEventListener('focusin', ({{target}}) => target.closest('.{EXPLORER}')"
    " && target.setAttribute('data-lm-suppress-shortcuts', 'true'))"
)


def key_keeper() -> ipywidgets.HTML:
    """An unseen widget that sees to the keys of all explorers on the page."""
    # A script in the text of a widget does not run; what an image that cannot be loaded does instead is run.
    return ipywidgets.HTML(f'<img alt="" src="data:," onerror="{SCRIPT}">', layout={"display": "none"})
