// A browser that does what it is told: a JSON command per line on stdin, a JSON answer per line on stdout.
//
// Started with the directory of `puppeteer-core` and the program of Chromium. It ends with its stdin.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const [directory, executablePath] = process.argv.slice(2);
const puppeteer = createRequire(`${directory}/`)("puppeteer-core");

const browser = await puppeteer.launch({
    executablePath,
    headless: true,
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"],
});
const page = await browser.newPage();
page.setDefaultTimeout(20_000);
const noise = [];
page.on("pageerror", (error) => noise.push(`error: ${error}`));
page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warn") noise.push(`${message.type()}: ${message.text()}`);
});
page.on("dialog", async (dialog) => {
    noise.push(`dialog: ${dialog.message()}`);
    await dialog.dismiss();
});

const commands = {
    open: async ({ url }) => {
        const response = await page.goto(url, { waitUntil: "load" });
        return { status: response?.status() ?? 0, url: page.url() };
    },
    click: async ({ selector }) => {
        await page.waitForSelector(selector, { visible: true });
        await page.click(selector);
    },
    // A click that leads to another page.
    follow: async ({ selector }) => {
        await page.waitForSelector(selector, { visible: true });
        await Promise.all([page.waitForNavigation({ waitUntil: "load" }), page.click(selector)]);
        return { url: page.url() };
    },
    fill: async ({ selector, text }) => {
        await page.waitForSelector(selector, { visible: true });
        await page.$eval(selector, (field) => (field.value = ""));
        await page.type(selector, text);
    },
    choose: async ({ selector, value }) => {
        await page.waitForSelector(selector);
        return await page.select(selector, value);
    },
    press: async ({ key }) => page.keyboard.press(key),
    wait: async ({ selector, text, hidden }) => {
        if (hidden) return void (await page.waitForSelector(selector, { hidden: true }));
        await page.waitForFunction(
            (selector, text) =>
                [...document.querySelectorAll(selector)].some((found) => found.innerText.includes(text)),
            { polling: 100 },
            selector,
            text ?? "",
        );
    },
    text: async ({ selector }) => page.$$eval(selector, (found) => found.map((one) => one.innerText)),
    value: async ({ selector, name }) =>
        page.$$eval(selector, (found, name) => found.map((one) => one.getAttribute(name)), name),
    count: async ({ selector }) => (await page.$$(selector)).length,
    url: async () => page.url(),
    back: async () => void (await page.goBack()),
    evaluate: async ({ script }) => page.evaluate(script),
    screen: async ({ width, height, dark }) => {
        await page.setViewport({ width, height });
        await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }]);
    },
    screenshot: async ({ path, full }) => {
        // As it is when nothing moves any more.
        await page.evaluate(() => {
            const ends = (animation) => animation.effect?.getComputedTiming().endTime < Infinity;
            document.getAnimations().filter(ends).forEach((animation) => animation.finish());
        });
        await page.screenshot({ path, fullPage: full ?? false });
    },
    cookies: async () => browser.cookies(),
    forget: async () => {
        await browser.deleteCookie(...(await browser.cookies()));
    },
    // What the page complained about since it was last asked.
    noise: async () => noise.splice(0),
};

for await (const line of createInterface({ input: process.stdin })) {
    const { command, ...rest } = JSON.parse(line);
    let answer;
    try {
        answer = { ok: (await commands[command](rest)) ?? null };
    } catch (error) {
        answer = { error: `${command} ${JSON.stringify(rest)} at ${page.url()}: ${error}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
