"""The entry point that `tacit dashboard` serves: page settings and the list of pages."""

import streamlit as st

from dashboard import strings

# No page icon: Streamlit fetches the picture of an emoji or symbol from the network.
st.set_page_config(page_title=strings.PAGE_TITLE, layout="wide")
st.navigation([st.Page("pages_/budget.py", title=strings.TITLE)], position="hidden").run()
