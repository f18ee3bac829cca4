"""What commands show: plain functions from data to rich renderables or plain JSON. Nothing here builds or changes a run."""
