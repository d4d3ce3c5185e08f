"""How the form looks, in the colours of the notebook's theme."""

STYLE = """<style>
.splatbook-form { max-width: 64em; gap: 0.9em; padding: 0.4em 0.2em; overflow: visible; }
.splatbook-form .splatbook-heading {
  font-weight: 600; color: var(--jp-ui-font-color1, inherit); line-height: 1.4;
}
.splatbook-form .splatbook-name {
  font-family: var(--jp-code-font-family, monospace); font-size: 0.95em; cursor: help;
  color: var(--jp-ui-font-color1, inherit); white-space: nowrap;
}
.splatbook-form .splatbook-help {
  color: var(--jp-ui-font-color2, #666); line-height: 1.35; padding: 0.2em 0 0.2em 0.6em;
  white-space: normal;
}
.splatbook-form .splatbook-unit {
  color: var(--jp-ui-font-color1, inherit); padding-right: 0.5em;
}
.splatbook-form .splatbook-problem {
  color: var(--jp-error-color1, #b00020); line-height: 1.35; padding: 0.2em 0 0.2em 0.6em;
  white-space: pre-line; overflow-wrap: anywhere;
}
.splatbook-form .splatbook-chooser .splatbook-help,
.splatbook-form .splatbook-chooser .splatbook-problem { padding-left: 0; }
.splatbook-form .splatbook-summary {
  line-height: 1.5; color: var(--jp-ui-font-color1, inherit);
}
.splatbook-form .splatbook-tile {
  width: 124px; height: 132px; margin: 3px; padding: 106px 4px 0; line-height: 22px;
  font-size: 0.85em; overflow: hidden; text-overflow: ellipsis;
  background-color: var(--jp-layout-color2, #eee); background-repeat: no-repeat;
  background-position: center 4px; background-size: auto 100px;
  border: 2px solid transparent; border-radius: 4px; box-shadow: none;
  color: var(--jp-ui-font-color1, inherit);
}
.splatbook-form .splatbook-tile.mod-active {
  border-color: var(--jp-brand-color1, #1976d2); font-weight: 600;
}
.splatbook-form .splatbook-tile:focus-visible {
  outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px;
}
.splatbook-form .splatbook-start { gap: 1.2em; }
.splatbook-form .lm-TabBar-content { flex-wrap: wrap; }
.splatbook-form .lm-TabBar-tab { flex: 0 0 auto !important; min-width: 0; max-width: none; }
.splatbook-form .splatbook-call textarea {
  font-family: var(--jp-code-font-family, monospace); font-size: 0.95em; line-height: 1.4;
}
.splatbook-form .splatbook-copy {
  cursor: pointer; padding: 0.25em 0.8em; border: 1px solid var(--jp-border-color1, #bbb);
  border-radius: 3px; background: var(--jp-layout-color1, #fff);
  color: var(--jp-ui-font-color1, inherit);
}
</style>"""

# Selects the text, which is a copy by hand where the browser forbids the rest.
COPY = """<button class="splatbook-copy" type="button" title="Copy the call to the clipboard"
onclick="const area = this.closest('.splatbook-call').querySelector('textarea');
area.focus(); area.select(); document.execCommand('copy');
this.textContent = 'Copied'; setTimeout(() => this.textContent = 'Copy', 1500);">Copy</button>"""
